/**
 * The service's client for browsers and Node: embed an image once, then segment objects by points and boxes.
 *
 * ```js
 * import { Client, drawRaster, rasterOfRle } from "https://masks.example/web/edgesam.js";
 *
 * const client = new Client("https://masks.example/");
 * const { image_hash } = await client.embed(file, { onProgress: ({ stage, done }) => console.log(stage, done) });
 * const { results } = await client.segment(image_hash, [{ points: [{ x: 610, y: 420, label: 1 }] }]);
 * drawRaster(canvas, rasterOfRle(results[0].masks[0].rle), [255, 111, 31]);
 * ```
 *
 * The modules in this folder have no dependencies. A page of another origin may import them if the service's setting
 * EDGESAM_CORS_ORIGINS names that origin. Browsers then send a preflight request, whose answer they keep for a day.
 *
 * The client keeps the file of each embedded image until `forget`, and embeds it again if the service has evicted it.
 *
 * @typedef {{x: number, y: number, label?: 0 | 1}} Point pixels of the upright image; label 1 is on the object, 0 beside it
 * @typedef {[x0: number, y0: number, x1: number, y1: number]} Box pixels, exclusive at the end
 * @typedef {{points?: Point[], box?: Box, mask_id?: string, mask_logits?: string,
 *   mask?: string | {size: [number, number], counts: string | number[]}}} Prompt the points, the box and the mask that
 *   describe one object; `mask` is a binary mask of the image's size: a PNG in base64 or as a data: URI, or run lengths
 * @typedef {import("./masks.js").Polygon} Polygon
 * @typedef {import("./masks.js").Mask} Mask
 * @typedef {import("./masks.js").Ranking} Ranking
 * @typedef {{ambiguous: number[], other: number[], fallback?: number[]}} AutoMasks outputs of the decoder (0..3) that a
 *   single point alone gets, outputs among which the best one is the answer to all other prompts, and outputs that
 *   replace those where output 0 is not stable
 * @typedef {{granularity: boolean, embedding_download: boolean, browser_decoding: boolean}} Features whether `segment`
 *   takes granularity "auto", whether `embedding` works, and whether a browser can decode with this model
 * @typedef {{file: string, sha256: string, size_bytes: number}} ModelFile
 * @typedef {{name: string, architecture: string, encoder: string, summary: string, licence: string,
 *   commercial_use: boolean | null, card: string, fingerprint: string, trained: boolean, granularity: boolean,
 *   features?: Features, resize?: "letterbox" | "stretch", ranking: Ranking, auto_masks: AutoMasks, norm_epsilon: number,
 *   files: Record<"prepare" | "decoder" | "parameters", ModelFile>,
 *   limits: Record<string, number>}} Model `summary` says what the model is for, and `commercial_use` whether the licence
 *   allows it, null if that is not known; `card` is the address of the model card, which may be relative to that of the
 *   service; `features` and `resize` are missing in older services
 * @typedef {import("./transport.js").RequestOptions} RequestOptions
 * @typedef {import("./transport.js").Timing} Timing
 * @typedef {import("./everything.js").EverythingEvent} EverythingEvent
 * @typedef {import("./image_file.js").ImageFile} ImageFile
 * @typedef {import("./image_file.js").Levels} Levels
 * @typedef {import("./image_file.js").Reading} Reading
 * @typedef {{image_hash: string, image_id: string, width: number, height: number, model: string,
 *   results: {masks: Mask[], granularity_box?: Box | null}[], timing: Timing}} Answer one result per prompt, each with its
 *   best mask first
 * @typedef {{image_hash: string, image_id: string, cached: string | null, width: number, height: number,
 *   orientation: number, levels: string, region: Box | null, timing: Timing}} Embedded `image_id` is what the other methods
 *   take; `cached` is the cache tier that had the embedding, null if it was computed; width and height are those of the
 *   whole upright image, and `orientation` is the EXIF orientation that the service applied, 1..8; `levels` is the
 *   conversion to grey levels that it applied, and `region` the part that was embedded, null for all of it
 * @typedef {{stage: "hash" | "look-up" | "upload" | "encode" | "end", done: number}} Progress `done` is a share, 0..1;
 *   "end" comes once, also after an error
 */

import { boxOf, defaultUrl, imageIdOf, parameters, routingHeader, withQuery } from "./addresses.js";
import { everythingDocument, readEverything } from "./everything.js";
import { blobOf } from "./image_file.js";
import { sha256 } from "./sha256.js";
import { Problem, missingIfUnavailable, request, requestLines, untilAborted } from "./transport.js";

export * from "./annotations.js";
export { maskOfEverything } from "./everything.js";
export * from "./masks.js";
export { polygons } from "./outlines.js";
export { Problem, Unreachable, parseServerTiming } from "./transport.js";
export { sha256 };

const TIMEOUT_MS = 60_000;
const RETRIES = 2;
const LIMITED = [429]; // a look-up that is not possible (503) is left out
const EVERYTHING_RETRIES = 10; // one such request of a caller waits for another

export class Client {
  /** @type {Map<string, {file: Blob, reading: Reading}>} */
  #files = new Map();
  /** @type {Map<string, Promise<unknown>>} */
  #restoring = new Map();

  /**
   * @param {string | URL} [url] address of the service, with its path prefix; by default the service that this module was
   *   loaded from. An installed or bundled copy of this module has no default.
   * @param {object} [options]
   * @param {string} [options.apiKey] API key, also in the member `apiKey`, which may be changed later
   * @param {number} [options.timeoutMs] longest time without an answer or progress, in milliseconds
   * @param {string} [options.model] name of the model for all calls that name none, also in the member `model`, which may be
   *   changed later; empty for the first model of the service. `models` lists them.
   * @param {(imageHash: string, progress: Progress) => void} [options.onRestore] called when an evicted image is embedded
   *   again
   * @throws {TypeError} if the address is needed and missing
   */
  constructor(url = defaultUrl(), { apiKey = "", timeoutMs = TIMEOUT_MS, model = "", onRestore } = {}) {
    const base = String(url);
    this.url = base.endsWith("/") ? base : `${base}/`;
    this.apiKey = apiKey;
    this.timeoutMs = timeoutMs;
    this.model = model;
    /** @type {((imageHash: string, progress: Progress) => void) | undefined} */
    this.onRestore = onRestore;
  }

  /**
   * The models of the service. The first one answers where no model is named.
   *
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Model[]>}
   */
  async models({ signal } = {}) {
    return (await (await this.#request("models", { signal, retries: RETRIES })).json()).models;
  }

  /**
   * The cache tier that has an image's embedding of a model, or null if the image has to be uploaded.
   *
   * @param {string} imageHash
   * @param {{signal?: AbortSignal, model?: string}} [options] `model` is the name of the model, by default the client's
   * @returns {Promise<string | null>}
   */
  async has(imageHash, { signal, model = this.model } = {}) {
    const headers = await this.#lookUp(imageHash, { signal, model });
    return headers && (headers.get("x-cache") ?? "memory");
  }

  /**
   * Embed an image or a region of it. The file is uploaded only if the service has neither the embedding nor, for a
   * region, a copy of the image.
   *
   * @param {ImageFile} image
   * @param {{signal?: AbortSignal, onProgress?: (progress: Progress) => void, model?: string, prefetch?: boolean} & Reading}
   *   [options] `model` is its name, by default the client's; with `prefetch` memory gets an embedded image ahead of prompts
   * @returns {Promise<Embedded>}
   * @throws {Problem | import("./transport.js").Unreachable | TypeError} or the signal's reason
   */
  async embed(image, { signal, onProgress, model = this.model, prefetch = false, ...reading } = {}) {
    const started = performance.now();
    const file = blobOf(image);
    try {
      onProgress?.({ stage: "hash", done: 0 });
      const imageHash = await sha256(file, { signal, onProgress: (done) => onProgress?.({ stage: "hash", done }) });
      onProgress?.({ stage: "look-up", done: 0 });
      const found = this.#lookUp(imageIdOf(imageHash, reading), { signal, model, prefetch });
      const headers = await found.catch(missingIfUnavailable);
      const [width, height] = (headers?.get("x-image-size") ?? "").split(",").map(Number);
      if (!headers || !width || !height) {
        const kept = reading.region && (await this.#embedCopy(imageHash, file, reading, { signal, model }));
        return kept || (await this.#upload(file, reading, { signal, onProgress, model }));
      }
      const region = boxOf(headers.get("x-image-region"));
      const imageId = imageIdOf(imageHash, { ...reading, region });
      this.#files.set(imageId, { file, reading });
      return {
        image_hash: imageHash,
        image_id: imageId,
        cached: headers.get("x-cache") ?? "memory",
        width,
        height,
        orientation: Number(headers.get("x-image-orientation") ?? 1),
        levels: headers.get("x-image-levels") ?? "full",
        region,
        timing: { stages: {}, roundTripMs: performance.now() - started },
      };
    } finally {
      onProgress?.({ stage: "end", done: 1 });
    }
  }

  /**
   * Segment objects of an embedded image.
   *
   * @param {string} imageHash `image_id` or `image_hash` of an embedded image
   * @param {Prompt[]} prompts one prompt per object
   * @param {object} [options]
   * @param {AbortSignal} [options.signal]
   * @param {"auto" | 1 | 3 | 4} [options.multimask] masks per prompt
   * @param {"rle" | "png" | "polygon" | "logits" | "none"} [options.format]
   * @param {boolean} [options.crop] crop PNG masks to the mask's box
   * @param {number} [options.tolerance_pixels] tolerance of simplified polygons, in pixels; 0 for exact outlines
   * @param {"off" | "auto"} [options.granularity] "auto": a click selects the whole object around it, if the model can
   * @param {"none" | "auto"} [options.cleanup] "auto": masks agree with all points, keep to the box and have no small
   *   islands and holes; "none", the default: the model's masks
   * @param {string} [options.model] name of the model, by default the client's; a model that has not embedded the image yet
   *   does so first
   * @param {boolean} [options.isGlimpse] the request is a preview: by default it is not repeated if the service is busy
   * @param {number} [options.retries] number of repetitions if the service is busy
   * @returns {Promise<Answer>}
   * @throws {Problem | import("./transport.js").Unreachable} or the signal's reason
   */
  async segment(imageHash, prompts, options = {}) {
    const { signal, isGlimpse = false, retries = isGlimpse ? 0 : RETRIES, model = this.model, ...rest } = options;
    const send = () =>
      this.#request("segment", {
        method: "POST",
        body: JSON.stringify({ image_hash: imageHash, prompts, ...rest, ...(model && { model }) }),
        headers: { "Content-Type": "application/json", ...routingHeader(imageHash) },
        signal,
        retries,
      });
    const answer = await this.#withRestore(imageHash, model, send, signal);
    return { ...(await answer.json()), timing: answer.timing };
  }

  /**
   * Find the masks of all objects of an embedded image or region, in seconds. Requests of one caller wait for each other.
   *
   * @param {string} imageHash `image_id` or `image_hash` of an embedded image
   * @param {{signal?: AbortSignal, model?: string, retries?: number,
   *   onEvent?: (event: EverythingEvent) => void} & import("./everything.js").EverythingOptions} [options] `onEvent` gets
   *   progress and masks as they come
   * @returns {Promise<import("./everything.js").Everything>}
   * @throws {Problem | import("./transport.js").Unreachable} or the signal's reason
   */
  async segmentEverything(imageHash, options = {}) {
    const { signal, onEvent, retries = EVERYTHING_RETRIES, model = this.model, ...rest } = options;
    const body = JSON.stringify({ image_hash: imageHash, ...everythingDocument(rest), ...(model && { model }) });
    const headers = { "Content-Type": "application/json", Accept: "application/x-ndjson", ...routingHeader(imageHash) };
    const settings = { method: "POST", body, headers, signal, retries, apiKey: this.apiKey, timeoutMs: this.timeoutMs };
    const send = () => readEverything(requestLines(`${this.url}segment/everything`, settings), onEvent);
    return this.#withRestore(imageHash, model, send, signal);
  }

  /**
   * Download an image's embedding, for decoding in the browser. Models whose `features.embedding_download` is false,
   * such as EdgeTAM and SAM 2.1, have none that could be downloaded: the service then answers a problem that says so.
   *
   * @param {string} imageHash `image_id` or `image_hash` of an embedded image
   * @param {{signal?: AbortSignal, onProgress?: (bytes: number) => void, model?: string}} [options] `model` is the name of
   *   the model, by default the client's
   * @returns {Promise<{tokens: Uint16Array, size: {width: number, height: number}, fingerprint: string}>} the tokens,
   *   (4096, 256) float16 bit patterns; the image's size; the model's `fingerprint`
   * @throws {Problem | import("./transport.js").Unreachable} or the signal's reason
   */
  async embedding(imageHash, { signal, onProgress, model = this.model } = {}) {
    const path = withQuery(`embed/${imageHash}`, parameters({}, model));
    const send = () => this.#request(path, { signal, retries: RETRIES, onDownload: onProgress });
    const { headers, content } = await this.#withRestore(imageHash, model, send, signal);
    const [width, height] = (headers.get("x-image-size") ?? "").split(",").map(Number);
    // The service sends little-endian numbers, and all machines that run browsers are little-endian.
    return { tokens: new Uint16Array(content), size: { width, height }, fingerprint: headers.get("x-fingerprint") ?? "" };
  }

  /**
   * Download a file of a model, for decoding in the browser.
   *
   * @param {string} sha256 hash of the file, from `models`
   * @param {{signal?: AbortSignal, onProgress?: (bytes: number) => void}} [options]
   * @returns {Promise<Uint8Array>}
   */
  async modelFile(sha256, { signal, onProgress } = {}) {
    const { content } = await this.#request(`models/files/${sha256}`, { signal, retries: RETRIES, onDownload: onProgress });
    return new Uint8Array(content);
  }

  /**
   * Release the file that this client keeps of an image, to upload it again after an eviction. The service keeps the
   * embedding: `DELETE /embed/{image_hash}` deletes it, as does `forget` of the Python client.
   *
   * @param {string} imageHash
   */
  forget(imageHash) {
    this.#files.delete(imageHash);
  }

  /** Headers of an embedded image, or null. @param {string} imageHash @param {RequestOptions & {model: string, prefetch?: boolean}} options */
  async #lookUp(imageHash, { signal, model, prefetch = false }) {
    const headers = prefetch ? { ...routingHeader(imageHash), Prefer: "prefetch" } : undefined;
    try {
      const path = withQuery(`embed/${imageHash}`, parameters({}, model));
      return (await this.#request(path, { method: "HEAD", headers, signal, retries: RETRIES, busy: LIMITED })).headers;
    } catch (error) {
      if (error instanceof Problem && error.status === 404) return null;
      throw error;
    }
  }

  /**
   * Embed a region of the service's copy of an image, or return null if it keeps none.
   *
   * @param {string} imageHash @param {Blob} file @param {Reading} reading @param {RequestOptions & {model: string}} options
   */
  async #embedCopy(imageHash, file, { region, ...whole }, { signal, model }) {
    const copy = `image_hash=${encodeURIComponent(imageIdOf(imageHash, whole))}`;
    const path = withQuery("embed", [copy, ...parameters({ region }, model)]);
    const send = this.#request(path, { method: "POST", headers: routingHeader(imageHash), signal, retries: RETRIES, busy: LIMITED });
    const answer = await send.catch(missingIfUnavailable);
    return answer && this.#keep(file, { ...whole, region }, answer);
  }

  /**
   * Send a request on an image; if the model lacks its embedding, embed it again and repeat the request.
   *
   * @template T
   * @param {string} imageHash @param {string} model @param {() => Promise<T>} send @param {AbortSignal} [signal]
   */
  async #withRestore(imageHash, model, send, signal) {
    try {
      return await send();
    } catch (error) {
      const kept = this.#files.get(imageHash);
      if (!(error instanceof Problem && error.code === "embedding-not-found" && kept)) throw error;
      await untilAborted(this.#restore(imageHash, model, kept), signal);
      return send();
    }
  }

  /**
   * Upload an evicted image: once for all requests that wait for it, even if one of them is aborted.
   * @param {string} imageHash @param {string} model @param {{file: Blob, reading: Reading}} kept
   */
  #restore(imageHash, model, { file, reading }) {
    const key = `${imageHash} ${model}`;
    let restoring = this.#restoring.get(key);
    if (!restoring) {
      const onProgress = (/** @type {Progress} */ progress) => this.onRestore?.(imageHash, progress);
      restoring = this.#upload(file, reading, { onProgress, model }).finally(() => {
        this.#restoring.delete(key);
        onProgress({ stage: "end", done: 1 });
      });
      this.#restoring.set(key, restoring);
    }
    return restoring;
  }

  /** @param {Blob} file @param {Reading} reading @param {{signal?: AbortSignal, onProgress?: (progress: Progress) => void, model: string}} options */
  async #upload(file, reading, { signal, onProgress, model }) {
    onProgress?.({ stage: "upload", done: 0 });
    const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
    const answer = await this.#request(withQuery("embed", parameters(reading, model)), {
      method: "POST",
      body: file,
      headers: { "Content-Type": type },
      signal,
      retries: RETRIES,
      onUpload: onProgress && ((done) => onProgress({ stage: done < 1 ? "upload" : "encode", done })),
    });
    return this.#keep(file, reading, answer);
  }

  /** @param {Blob} file kept @param {Reading} reading @param {import("./transport.js").Received} answer @returns {Promise<Embedded>} */
  async #keep(file, reading, answer) {
    const embedded = await answer.json();
    this.#files.set(embedded.image_id, { file, reading });
    return { ...embedded, region: embedded.region ?? null, timing: answer.timing };
  }

  /** @param {string} path @param {RequestOptions & {retries?: number, busy?: number[]}} options */
  #request(path, options) {
    return request(this.url + path, { ...options, apiKey: this.apiKey, timeoutMs: this.timeoutMs });
  }
}
