/**
 * The service's client for browsers and Node: embed a picture once, then cut out objects with a click each.
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
 * No dependency: this file, `masks.js`, `halves.js` and `sha256.js` beside it are all there is. A page of another origin may use it
 * when the service's setting EDGESAM_CORS_ORIGINS names that origin: browsers then ask first (a preflight, remembered
 * for a day) and the answers' headers can be read.
 *
 * A picture that the service has forgotten meanwhile is embedded again and the request repeated, as long as the client
 * knows its file: it remembers what `embed` was given until `forget`.
 *
 * @typedef {{x: number, y: number, label?: 0 | 1}} Point pixels of the upright picture; 1 belongs to the object
 * @typedef {[x0: number, y0: number, x1: number, y1: number]} Box pixels, exclusive at the end
 * @typedef {{points?: Point[], box?: Box, mask_id?: string, mask_logits?: string}} Prompt what points at one object
 * @typedef {{exterior: [number, number][], holes: [number, number][][]}} Polygon
 * @typedef {{score: number, stability: number, predicted_iou: number, area: number, box: Box, mask_id: string,
 *   rle?: import("./masks.js").Rle, png?: string, polygon?: Polygon[], logits?: string}} Mask `score`, 0..1, is what masks
 *   are ordered by, see `Ranking`
 * @typedef {{bias: number[], stability: number, predicted_iou: number}} Ranking the rule behind `Mask.score`: bias of the
 *   output + stability × its stability + predicted_iou × its predicted IoU, cut to 0..1
 * @typedef {{file: string, sha256: string, size_bytes: number}} ModelFile
 * @typedef {{name: string, architecture: string, encoder: string, licence: string, fingerprint: string,
 *   trained: boolean, granularity: boolean, ranking: Ranking,
 *   files: Record<"prepare" | "decoder" | "parameters", ModelFile>, limits: Record<string, number>}} Model
 * @typedef {{stages: Record<string, number>, roundTripMs: number}} Timing `stages` are the service's, milliseconds
 * @typedef {{image_hash: string, width: number, height: number, model: string,
 *   results: {masks: Mask[], granularity_box?: Box | null}[], timing: Timing}} Answer one result a prompt, each with its
 *   best mask first
 * @typedef {{image_hash: string, cached: string | null, width: number | null, height: number | null,
 *   timing: Timing}} Embedded `cached` names the tier that had it; the size is known only when it was uploaded
 * @typedef {{stage: "hash" | "look-up" | "upload" | "encode" | "end", done: number}} Progress `done` is a part of 1;
 *   "end" comes once, also after a failure
 */

import { sha256 } from "./sha256.js";

export * from "./masks.js";
export { sha256 };

const TIMEOUT_MS = 60_000;
const RETRIES = 2;
const MOST_RETRY_AFTER_S = 10;
const LEAST_TOLD_BYTES = 2 ** 18; // answers below come in one piece

/** The service answered that it will not. `code` is stable, `detail` says what to do; see the README's table. */
export class Problem extends Error {
  name = "Problem";

  /**
   * @param {{status: number, code: string, title: string, detail: string, instance?: string}} document RFC 9457
   * @param {number | null} retryAfterS seconds after which a repetition makes sense
   */
  constructor(document, retryAfterS = null) {
    super(document.detail || document.title);
    this.status = document.status;
    this.code = document.code;
    this.title = document.title;
    this.requestId = document.instance ?? "";
    this.retryAfterS = retryAfterS;
  }
}

/** Nobody answered, or not in time: `code` is `unreachable` or `timeout`. */
export class Unreachable extends Error {
  name = "Unreachable";

  /** @param {"unreachable" | "timeout"} code @param {unknown} [cause] */
  constructor(code, cause) {
    super(code === "timeout" ? "The service did not answer in time." : "The service cannot be reached.", { cause });
    this.code = code;
  }
}

export class Client {
  /** @type {Map<string, Blob>} */
  #files = new Map();
  /** @type {Map<string, Promise<unknown>>} */
  #restoring = new Map();

  /**
   * @param {string | URL} [url] of the service, with its path prefix; by default where this module came from
   * @param {object} [options]
   * @param {string} [options.apiKey] may be changed later
   * @param {number} [options.timeoutMs] bound of each request; an upload may take so long without any progress
   * @param {(imageHash: string, progress: Progress) => void} [options.onRestore] a forgotten picture is embedded again
   */
  constructor(url = new URL("../../", import.meta.url), { apiKey = "", timeoutMs = TIMEOUT_MS, onRestore } = {}) {
    const base = String(url);
    this.url = base.endsWith("/") ? base : `${base}/`;
    this.apiKey = apiKey;
    this.timeoutMs = timeoutMs;
    this.onRestore = onRestore;
  }

  /**
   * What is served.
   *
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<Model[]>}
   */
  async models({ signal } = {}) {
    return (await (await this.#request("models", { signal })).json()).models;
  }

  /**
   * Whether a picture needs no upload.
   *
   * @param {string} imageHash
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<string | null>} the tier that has it
   */
  async has(imageHash, { signal } = {}) {
    try {
      const answer = await this.#request(`embed/${imageHash}`, { method: "HEAD", signal });
      return answer.headers.get("x-cache") ?? "memory";
    } catch (error) {
      if (error instanceof Problem && error.status === 404) return null;
      throw error;
    }
  }

  /**
   * Make a picture known: hash it, ask whether the service has it, upload it if not.
   *
   * @param {Blob} file its bytes as they are on the disk
   * @param {{signal?: AbortSignal, onProgress?: (progress: Progress) => void}} [options]
   * @returns {Promise<Embedded>}
   * @throws {Problem | Unreachable} or what the signal was aborted with
   */
  async embed(file, { signal, onProgress } = {}) {
    const started = performance.now();
    try {
      onProgress?.({ stage: "hash", done: 0 });
      const imageHash = await sha256(file, { signal, onProgress: (done) => onProgress?.({ stage: "hash", done }) });
      onProgress?.({ stage: "look-up", done: 0 });
      const tier = await this.has(imageHash, { signal });
      if (tier === null) return await this.#upload(file, { signal, onProgress });
      this.#files.set(imageHash, file);
      const timing = { stages: {}, roundTripMs: performance.now() - started };
      return { image_hash: imageHash, cached: tier, width: null, height: null, timing };
    } finally {
      onProgress?.({ stage: "end", done: 1 });
    }
  }

  /**
   * Cut out objects.
   *
   * @param {string} imageHash of an embedded picture
   * @param {Prompt[]} prompts
   * @param {object} [options]
   * @param {AbortSignal} [options.signal]
   * @param {"auto" | 1 | 3 | 4} [options.multimask] masks a prompt
   * @param {"rle" | "png" | "polygon" | "logits" | "none"} [options.format]
   * @param {boolean} [options.crop] png: only what is inside the mask's box
   * @param {number} [options.tolerance_pixels] polygon: how far a simplified outline may stray
   * @param {"off" | "auto"} [options.granularity] auto: a click means the whole object around it; see `Model`
   * @param {boolean} [options.isGlimpse] the answer is soon out of date: a busy service is not asked again
   * @param {number} [options.retries] how often a busy service is asked again, after the time it names
   * @returns {Promise<Answer>}
   * @throws {Problem | Unreachable} or what the signal was aborted with
   */
  async segment(imageHash, prompts, { signal, isGlimpse = false, retries = isGlimpse ? 0 : RETRIES, ...options } = {}) {
    const ask = () =>
      this.#request("segment", {
        method: "POST",
        body: JSON.stringify({ image_hash: imageHash, prompts, ...options }),
        // The hash stands in a header as well, so that a load balancer can send a picture's clicks to one replica.
        headers: { "Content-Type": "application/json", "X-Image-Hash": imageHash },
        signal,
        retries,
      });
    const answer = await this.#known(imageHash, ask, signal);
    return { ...(await answer.json()), timing: answer.timing };
  }

  /**
   * What the encoder made of a picture, for decoding elsewhere.
   *
   * @param {string} imageHash of an embedded picture
   * @param {{signal?: AbortSignal, onProgress?: (bytes: number) => void}} [options]
   * @returns {Promise<{tokens: Uint16Array, size: {width: number, height: number}, fingerprint: string}>} the tokens
   *   4096 × 256, as the bits of float16 numbers; `fingerprint` as in `Model`
   * @throws {Problem | Unreachable} or what the signal was aborted with
   */
  async embedding(imageHash, { signal, onProgress } = {}) {
    const ask = () => this.#request(`embed/${imageHash}`, { signal, retries: RETRIES, onDownload: onProgress });
    const { headers, content } = await this.#known(imageHash, ask, signal);
    const [width, height] = (headers.get("x-image-size") ?? "").split(",").map(Number);
    // Little-endian, as every machine is that runs a browser.
    return { tokens: new Uint16Array(content), size: { width, height }, fingerprint: headers.get("x-fingerprint") ?? "" };
  }

  /**
   * A file of the served model that decoding elsewhere needs.
   *
   * @param {string} sha256 as `models` tells it
   * @param {{signal?: AbortSignal, onProgress?: (bytes: number) => void}} [options]
   * @returns {Promise<Uint8Array>}
   */
  async modelFile(sha256, { signal, onProgress } = {}) {
    const { content } = await this.#request(`models/files/${sha256}`, { signal, retries: RETRIES, onDownload: onProgress });
    return new Uint8Array(content);
  }

  /** Let go of a picture's file. @param {string} imageHash */
  forget(imageHash) {
    this.#files.delete(imageHash);
  }

  /** What is asked of a picture; if the service has forgotten it, asked again when it is embedded anew. */
  async #known(imageHash, ask, signal) {
    try {
      return await ask();
    } catch (error) {
      const file = this.#files.get(imageHash);
      if (!(error instanceof Problem && error.code === "embedding-not-found" && file)) throw error;
      await this.#restore(imageHash, file);
      signal?.throwIfAborted();
      return ask();
    }
  }

  /** One upload for all requests that miss the picture; it goes on when one of them is aborted. */
  #restore(imageHash, file) {
    let restoring = this.#restoring.get(imageHash);
    if (!restoring) {
      const onProgress = (progress) => this.onRestore?.(imageHash, progress);
      restoring = this.#upload(file, { onProgress }).finally(() => {
        this.#restoring.delete(imageHash);
        onProgress({ stage: "end", done: 1 });
      });
      this.#restoring.set(imageHash, restoring);
    }
    return restoring;
  }

  /** @param {Blob} file @param {{signal?: AbortSignal, onProgress?: (progress: Progress) => void}} options */
  async #upload(file, { signal, onProgress }) {
    onProgress?.({ stage: "upload", done: 0 });
    const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
    const answer = await this.#request("embed", {
      method: "POST",
      body: file,
      headers: { "Content-Type": type },
      signal,
      retries: RETRIES,
      onUpload: onProgress && ((done) => onProgress({ stage: done < 1 ? "upload" : "encode", done })),
    });
    const embedded = await answer.json();
    this.#files.set(embedded.image_hash, file);
    return { ...embedded, timing: answer.timing };
  }

  /** One request, repeated while the service is busy; its answer, whole, with the time it took. */
  async #request(path, { retries = 0, ...options }) {
    for (;;) {
      try {
        return await this.#once(path, options);
      } catch (error) {
        const waitS = error instanceof Problem && error.status === 503 ? (error.retryAfterS ?? 1) : null;
        if (waitS === null || waitS > MOST_RETRY_AFTER_S || retries-- <= 0) throw error;
        await pause(waitS * 1000, options.signal);
      }
    }
  }

  /**
   * @param {string} path
   * @param {{method?: string, body?: Blob | string, headers?: Record<string, string>, signal?: AbortSignal,
   *   onUpload?: (done: number) => void, onDownload?: (bytes: number) => void}} options
   */
  async #once(path, { method = "GET", body, headers = {}, signal, onUpload, onDownload }) {
    signal?.throwIfAborted();
    const bound = new Bound(this.timeoutMs, signal);
    const key = this.apiKey ? { "X-API-Key": this.apiKey } : {};
    const options = { method, body, headers: { ...headers, ...key }, signal: bound.signal };
    const started = performance.now();
    try {
      const send = onUpload && globalThis.XMLHttpRequest ? upload : fetch;
      const response = await send(this.url + path, options, (done) => {
        bound.renew();
        onUpload?.(done);
      });
      const content = await contentOf(response, (bytes) => {
        bound.renew();
        onDownload?.(bytes);
      });
      const roundTripMs = performance.now() - started;
      if (!response.ok) throw problemOf(response, content);
      return {
        headers: response.headers,
        content,
        timing: { stages: parseServerTiming(response.headers.get("server-timing")), roundTripMs },
        json: async () => JSON.parse(new TextDecoder().decode(content)),
      };
    } catch (error) {
      if (error instanceof Problem) throw error;
      signal?.throwIfAborted();
      throw new Unreachable(bound.signal.aborted ? "timeout" : "unreachable", error);
    } finally {
      bound.release();
    }
  }
}

/**
 * @param {string | null} header such as `decode;dur=15.20, total;dur=17.01`
 * @returns {Record<string, number>} milliseconds by stage
 */
export function parseServerTiming(header) {
  const entries = (header ?? "").matchAll(/([\w-]+)\s*;[^,]*?dur=([\d.]+)/g);
  return Object.fromEntries(Array.from(entries, ([, stage, duration]) => [stage, Number(duration)]));
}

/** A signal that follows another one and a clock. `AbortSignal.any` would leave browsers of 2023 behind. */
class Bound {
  #controller = new AbortController();
  #timer = 0;
  #follow = () => this.#controller.abort(this.#followed?.reason);
  #followed;
  #timeoutMs;

  constructor(timeoutMs, signal) {
    this.#timeoutMs = timeoutMs;
    this.#followed = signal;
    signal?.addEventListener("abort", this.#follow);
    this.renew();
  }

  get signal() {
    return this.#controller.signal;
  }

  renew() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#controller.abort(), this.#timeoutMs);
  }

  release() {
    clearTimeout(this.#timer);
    this.#followed?.removeEventListener("abort", this.#follow);
  }
}

/** All of an answer, and how much of it has come. @returns {Promise<ArrayBuffer>} */
async function contentOf(response, onBytes) {
  const length = Number(response.headers.get("content-length"));
  if (!response.body || length < LEAST_TOLD_BYTES) return response.arrayBuffer();
  const pieces = [];
  let bytes = 0;
  const reader = response.body.getReader();
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    pieces.push(piece.value);
    onBytes((bytes += piece.value.length));
  }
  return new Blob(pieces).arrayBuffer();
}

/** `fetch` as far as it is used here, with the progress of the upload, which fetch does not tell. */
function upload(url, { method, body, headers, signal }, onUpload) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const abort = () => request.abort();
    const fail = () => reject(new TypeError("The upload did not end."));
    request.open(method, url);
    request.responseType = "arraybuffer";
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = ({ loaded, total }) => onUpload(total ? Math.min(loaded / total, 0.999) : 0);
    request.upload.onload = () => onUpload(1);
    request.onerror = fail;
    request.onabort = fail;
    request.onload = () => {
      const given = new Headers();
      for (const [, name, value] of request.getAllResponseHeaders().matchAll(/^([^:\r\n]+):(.*)$/gm)) {
        given.append(name, value.trim());
      }
      resolve(new Response(request.response, { status: request.status, headers: given }));
    };
    request.onloadend = () => signal.removeEventListener("abort", abort);
    signal.addEventListener("abort", abort);
    request.send(body);
  });
}

/** What a proxy answers in the service's place is no problem document, and becomes one here. */
function problemOf(response, content) {
  const retryAfter = Number.parseFloat(response.headers.get("retry-after") ?? "");
  const retryAfterS = Number.isFinite(retryAfter) ? retryAfter : null;
  try {
    const document = JSON.parse(new TextDecoder().decode(content));
    if (typeof document.code === "string") return new Problem(document, retryAfterS);
  } catch {
    // not JSON: also every answer to HEAD, which has no body
  }
  const title = `The service answered ${response.status}`;
  return new Problem({ status: response.status, code: `http-${response.status}`, title, detail: "" }, retryAfterS);
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
}
