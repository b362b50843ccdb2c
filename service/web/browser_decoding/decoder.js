/**
 * The prompt decoder on ONNX Runtime: from the image's embedding and a prompt to masks, as in the service.
 *
 * It runs in a worker (decoder_worker.js), since a run blocks its thread.
 *
 * @typedef {{prepare: Uint8Array, decoder: Uint8Array, parameters?: {file: string, content: Uint8Array}}} Graphs
 *   ONNX files; `parameters` holds the decoder's weights under the file name that its graph refers to
 * @typedef {{masks: import("../client/edgesam.js").Mask[], stages: Record<string, number>}} Decoded best mask first;
 *   stages in milliseconds
 */

import { MASK_SIZE, tokensOf } from "./letterbox.js";
import { toFloat16, toFloat32 } from "../client/float16.js";
import { base64OfBytes, decodeLogits } from "../client/masks.js";
import { MaskCleaner, withBoxOfMask } from "./cleanup.js";
import { candidates, limitedScore, maskCount, preferAgreeing, rank, scoresOf } from "./ranking.js";
import { MaskEncoder } from "./mask_runs.js";

const TOKENS_SHAPE = [4096, 256];
const PIXELS = MASK_SIZE ** 2;
const STATE_NAMES = ["keys", "keys0", "queries0"];

export class Decoder {
  #runtime;
  #prepareGraph;
  #decoderGraph;
  #rules;
  #tokens = /** @type {any} */ (null);
  #state = {};
  #size = { width: 1, height: 1 };
  #maskEncoder = /** @type {MaskEncoder | null} */ (null);

  /** Use `Decoder.load`. */
  constructor(runtime, prepare, decode, rules) {
    this.#runtime = runtime;
    this.#prepareGraph = prepare;
    this.#decoderGraph = decode;
    this.#rules = rules;
  }

  /**
   * @param {any} runtime onnxruntime-web's module
   * @param {Graphs} graphs
   * @param {import("./ranking.js").Rules} rules rules of the model for its masks, from /models
   * @returns {Promise<Decoder>}
   */
  static async load(runtime, { prepare, decoder, parameters }, rules) {
    const options = { executionProviders: ["wasm"], logSeverityLevel: 3 };
    const externalData = parameters && [{ path: parameters.file, data: parameters.content }];
    return new Decoder(
      runtime,
      await runtime.InferenceSession.create(prepare, options),
      await runtime.InferenceSession.create(decoder, { ...options, externalData }),
      rules,
    );
  }

  /**
   * Switch to an image and compute what depends on the image alone.
   *
   * @param {Uint16Array} tokens the image's embedding, (4096, 256) float16 bit patterns
   * @param {import("./letterbox.js").Size} size
   * @returns {Promise<{stages: Record<string, number>}>}
   */
  async open(tokens, size) {
    const started = performance.now();
    this.#tokens = new this.#runtime.Tensor("float32", toFloat32(tokens), TOKENS_SHAPE);
    this.#size = size;
    this.#maskEncoder = new MaskEncoder(size);
    this.#state = await this.#prepared(null);
    return { stages: { prepare: performance.now() - started } };
  }

  /**
   * @param {import("../client/edgesam.js").Prompt} prompt in pixels of the image; a refined mask is in `mask_logits`
   * @param {import("./ranking.js").Multimask} multimask number of masks, as in the service
   * @param {"auto" | "none"} cleanup whether masks are cleaned, as in the service
   * @returns {Promise<Decoded>}
   */
  async decode(prompt, multimask, cleanup) {
    const { Tensor } = this.#runtime;
    const stages = /** @type {Record<string, number>} */ ({});
    let state = this.#state;
    if (prompt.mask_logits) {
      const maskLogits = decodeLogits(prompt.mask_logits);
      prompt = withBoxOfMask(prompt, maskLogits, this.#size);
      state = await timed(stages, "prepare", () => this.#prepared(maskLogits));
    }
    const { points, labels } = tokensOf(prompt, this.#size);
    const feeds = {
      ...state,
      points: new Tensor("float32", points, [1, labels.length, 2]),
      labels: new Tensor("int64", labels, [1, labels.length]),
    };
    const decoded = await timed(stages, "decode", () => this.#decoderGraph.run(feeds));
    const masks = await timed(stages, "postprocess", async () => this.#masks(decoded, prompt, multimask, cleanup));
    return { masks, stages };
  }

  async #prepared(maskLogits) {
    const { Tensor } = this.#runtime;
    const logits = maskLogits ?? new Float32Array(PIXELS);
    const state = await this.#prepareGraph.run({
      tokens: this.#tokens,
      mask_logits: new Tensor("float32", logits, [1, MASK_SIZE, MASK_SIZE]),
      has_mask: new Tensor("bool", [maskLogits !== null], [1]),
    });
    return Object.fromEntries(STATE_NAMES.map((name) => [name, state[name]]));
  }

  /** The masks of a prompt, best first, in the service's format. */
  #masks(decoded, prompt, multimask, cleanup) {
    const [stability, predictedIou] = [decoded.stability.data, decoded.iou_predictions.data];
    const scores = scoresOf(this.#rules.ranking, stability, predictedIou);
    const outputs = scores.map((_, i) => decoded.mask_logits.data.subarray(i * PIXELS, (i + 1) * PIXELS));
    const cleaner = new MaskCleaner(prompt, this.#size);
    const agrees = outputs.map((logits) => cleaner.agrees(logits));
    const orderBy = prompt.points?.length ? preferAgreeing(scores, agrees, this.#rules.ranking.agreement) : scores;
    const count = maskCount(multimask, prompt, this.#rules);
    const order = rank(orderBy, candidates(multimask, prompt, this.#rules)).slice(0, count);
    return order.map((index) => {
      const logits = cleanup === "auto" ? cleaner.clean(outputs[index]) : outputs[index];
      return {
        ...this.#maskEncoder.encode(logits, cleanup === "auto" ? cleaner.markedPixels : null),
        score: limitedScore(scores[index]),
        stability: stability[index],
        predicted_iou: predictedIou[index],
        mask_id: "", // the service does not have this mask; a refinement sends its logits
        logits: base64OfBytes(new Uint8Array(toFloat16(logits).buffer)),
      };
    });
  }
}

async function timed(stages, name, work) {
  const started = performance.now();
  const result = await work();
  stages[name] = performance.now() - started;
  return result;
}
