/**
 * Decodes prompts in this browser, from embeddings that the service computed. Clicks then send no requests.
 *
 * `BrowserDecoder.segment` has the signature of `Client.segment`, so that callers can use either.
 *
 * Each image needs one download of its embedding, 2 MiB. The first image also needs the decoder, 13 MB, which stays in
 * the browser's cache. A worker runs one job at a time; clicks go before previews.
 *
 * @typedef {{stage: "decoder" | "embedding" | "prepare" | "end", done: number}} LoadProgress `done` is a share, 0..1
 */

import { Problem } from "../client/edgesam.js";
import { CannotDecode, WorkerQueue } from "./worker_queue.js";

// Measured on two cores only. The products of a click are small, so more than four threads would mostly wait.
const MAX_THREADS = 4;

/** The service no longer has the model that this browser loaded, or has another one of the same name. */
export class ModelChanged extends Error {
  name = "ModelChanged";
  code = "model-changed";
}

export class BrowserDecoder {
  #client;
  #model;
  #worker = /** @type {WorkerQueue | null} */ (null);
  #loading = /** @type {Promise<void> | null} */ (null);
  #image = { imageHash: "", opening: Promise.resolve() };

  /**
   * @param {import("../client/edgesam.js").Client} client fetches embeddings and the model's files
   * @param {import("../client/edgesam.js").Model} model model whose `files` are not empty
   */
  constructor(client, model) {
    this.#client = client;
    this.#model = model;
    /** @type {(progress: LoadProgress) => void} */
    this.onProgress = () => {};
    /** @type {(ms: number) => void} called when an image is prepared, with the time that it took */
    this.onPrepared = () => {};
    /** @type {(threads: number) => void} called when the decoder is loaded, with the number of its threads */
    this.onLoaded = () => {};
  }

  /**
   * Prepare an image for `segment`. Does nothing if the image is prepared already.
   *
   * @param {string} imageHash hash of an embedded image
   * @throws {CannotDecode | ModelChanged | Problem | import("../client/edgesam.js").Unreachable}
   */
  open(imageHash) {
    if (this.#image.imageHash !== imageHash) {
      const opening = this.#open(imageHash);
      this.#image = { imageHash, opening };
      opening.catch(() => {
        if (this.#image.opening === opening) this.#image = { imageHash: "", opening: Promise.resolve() };
      });
    }
    return this.#image.opening;
  }

  /**
   * Like `Client.segment`, with one prompt. A prompt that refines a mask gives it as `mask_logits`; only the service
   * takes `mask_id` and `mask`.
   *
   * @param {string} imageHash
   * @param {import("../client/edgesam.js").Prompt[]} prompts
   * @param {{multimask?: import("./ranking.js").Multimask, cleanup?: "auto" | "none", signal?: AbortSignal,
   *   isGlimpse?: boolean}} options
   * @returns {Promise<{results: {masks: import("../client/edgesam.js").Mask[]}[], timing: import("../client/edgesam.js").Timing}>}
   */
  async segment(imageHash, [prompt], { multimask = "auto", cleanup = "none", signal, isGlimpse = false } = {}) {
    if (prompt.mask_id || prompt.mask) {
      const title = "Only the service can use this mask";
      throw new Problem({ status: 404, code: "mask-not-found", title, detail: "" });
    }
    if (imageHash.includes("~region=")) {
      const title = "Only the service decodes a region of an image";
      throw new Problem({ status: 404, code: "embedding-not-found", title, detail: "" });
    }
    await this.open(imageHash);
    signal?.throwIfAborted();
    const started = performance.now();
    const message = { kind: "decode", prompt, multimask, cleanup };
    const { masks, stages } = await this.#readyWorker().run(message, { signal, isUrgent: !isGlimpse });
    const total = performance.now() - started;
    return { results: [{ masks }], timing: { stages: { ...stages, total }, roundTripMs: total } };
  }

  /** Free its memory, 100 MB. The decoder can be used again. */
  close() {
    this.#worker?.end();
    this.#worker = null;
    this.#loading = null;
    this.#image = { imageHash: "", opening: Promise.resolve() };
  }

  async #open(imageHash) {
    try {
      this.onProgress({ stage: "decoder", done: 0 });
      this.#loading ??= this.#load();
      const embedding = this.#client.embedding(imageHash, { model: this.#model.name });
      const [{ tokens, size, fingerprint }] = await Promise.all([embedding, this.#loading]);
      if (fingerprint !== this.#model.fingerprint) throw new ModelChanged("The service has another model now.");
      if (this.#image.imageHash !== imageHash) return; // another image was opened meanwhile
      this.onProgress({ stage: "prepare", done: 0 });
      const { stages } = await this.#readyWorker().run({ kind: "open", tokens, size }, { transfer: [tokens.buffer] });
      this.onPrepared(stages.prepare);
    } catch (error) {
      if (!this.#worker) this.#loading = null;
      throw error.code === "model-not-found" ? new ModelChanged("The service no longer has this model.") : error;
    } finally {
      this.onProgress({ stage: "end", done: 1 });
    }
  }

  async #load() {
    const { prepare, decoder, parameters } = this.#model.files;
    const parts = [prepare, decoder, ...(parameters ? [parameters] : [])];
    const total = parts.reduce((sum, { size_bytes: bytes }) => sum + bytes, 0);
    const received = parts.map(() => 0);
    try {
      const contents = await Promise.all(
        parts.map(({ sha256 }, i) =>
          this.#client.modelFile(sha256, {
            onProgress: (bytes) => {
              received[i] = bytes;
              this.onProgress({ stage: "decoder", done: received.reduce((sum, one) => sum + one, 0) / total });
            },
          }),
        ),
      );
      const graphs = {
        prepare: contents[0],
        decoder: contents[1],
        ...(parameters && { parameters: { file: parameters.file, content: contents[2] } }),
      };
      this.onLoaded(await this.#start(graphs, possibleThreads()));
    } catch (error) {
      this.close();
      throw error.code === "not-found" ? new ModelChanged("The service has other files now.") : error;
    }
  }

  /**
   * Start the worker. Where it cannot start its threads, for example because a proxy removed a header of their script,
   * a new worker takes one thread.
   *
   * @param {import("./decoder.js").Graphs} graphs copied to the worker, so that a second one can get them
   * @param {number} threads
   * @returns {Promise<number>} number of threads that decode
   */
  async #start(graphs, threads) {
    const { ranking, auto_masks } = this.#model;
    let isLoaded = false;
    const worker = new WorkerQueue(() => isLoaded && this.close());
    this.#worker = worker;
    try {
      await worker.run({ kind: "load", graphs, rules: { ranking, auto_masks }, threads });
      isLoaded = true;
      return threads;
    } catch (error) {
      const isClosed = this.#worker !== worker;
      if (isClosed || threads === 1) throw error;
      worker.end();
      return this.#start(graphs, 1);
    }
  }

  /** @returns {WorkerQueue} */
  #readyWorker() {
    if (!this.#worker) throw new CannotDecode("The decoder in this browser has ended.");
    return this.#worker;
  }
}

/** The number of threads with which this browser can decode: one unless the page is cross-origin isolated. */
function possibleThreads() {
  if (!globalThis.crossOriginIsolated || typeof SharedArrayBuffer !== "function") return 1;
  return Math.min(Math.max(navigator.hardwareConcurrency || 1, 1), MAX_THREADS);
}
