/**
 * Decodes prompts in this browser, from embeddings that the service computed. Clicks then send no requests.
 *
 * `BrowserDecoder.segment` has the signature of `Client.segment`, so that callers can use either.
 *
 * Each image needs one download of its embedding, 2 MiB. The first image also needs the decoder, 13 MB, which stays in
 * the browser's cache. A worker runs one job at a time; clicks go before previews.
 *
 * @typedef {{stage: "decoder" | "embedding" | "prepare" | "end", done: number}} LoadProgress `done` is a share, 0..1
 * @typedef {{message: object, transfer: Transferable[], resolve: (result: any) => void,
 *   reject: (error: Error) => void, signal?: AbortSignal, isUrgent: boolean}} Job
 */

import { Problem } from "../client/edgesam.js";

const WORKER = new URL("decoder_worker.js", import.meta.url).href;
const MAX_JOB_MS = 60_000; // a browser that takes longer is too slow for clicks

/** This browser cannot decode, or its worker has ended. */
export class CannotDecode extends Error {
  name = "CannotDecode";
  code = "cannot-decode-here";
}

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
      const transfer = contents.map(({ buffer }) => buffer);
      this.#worker = new WorkerQueue(() => this.close());
      const { ranking, auto_masks } = this.#model;
      await this.#worker.run({ kind: "load", graphs, rules: { ranking, auto_masks } }, { transfer });
    } catch (error) {
      this.close();
      throw error.code === "not-found" ? new ModelChanged("The service has other files now.") : error;
    }
  }

  /** @returns {WorkerQueue} */
  #readyWorker() {
    if (!this.#worker) throw new CannotDecode("The decoder in this browser has ended.");
    return this.#worker;
  }
}

/** A worker and the queue of its jobs. */
class WorkerQueue {
  #worker;
  #onFailure;
  /** @type {Job[]} */
  #waiting = [];
  #current = /** @type {(Job & {id: number, timer: number}) | null} */ (null);
  #nextId = 1;

  /** @param {() => void} onFailure called when the worker fails or takes too long */
  constructor(onFailure) {
    this.#onFailure = onFailure;
    this.#worker = newWorker();
    this.#worker.addEventListener("message", ({ data }) => this.#onMessage(data));
    this.#worker.addEventListener("error", (event) => this.#fail(event.message || "The worker did not start."));
  }

  /**
   * @param {object} message
   * @param {{transfer?: Transferable[], signal?: AbortSignal, isUrgent?: boolean}} [options] urgent jobs go before others
   * @returns {Promise<any>}
   */
  run(message, { transfer = [], signal, isUrgent = true } = {}) {
    return new Promise((resolve, reject) => {
      const job = { message, transfer, resolve, reject, signal, isUrgent };
      // A job that the worker has begun runs to its end, and its result is ignored.
      signal?.addEventListener("abort", () => this.#drop(job), { once: true });
      const index = isUrgent ? this.#waiting.findIndex((other) => !other.isUrgent) : -1;
      this.#waiting.splice(index < 0 ? this.#waiting.length : index, 0, job);
      this.#next();
    });
  }

  end(reason = "It was switched off.") {
    this.#worker.terminate();
    clearTimeout(this.#current?.timer);
    const left = [...(this.#current ? [this.#current] : []), ...this.#waiting];
    this.#current = null;
    this.#waiting = [];
    for (const { reject } of left) reject(new CannotDecode(reason));
  }

  #next() {
    if (this.#current || this.#waiting.length === 0) return;
    const job = this.#waiting.shift();
    const timer = setTimeout(() => this.#fail("It takes too long."), MAX_JOB_MS);
    this.#current = { ...job, id: this.#nextId++, timer };
    this.#worker.postMessage({ id: this.#current.id, ...job.message }, job.transfer);
  }

  #onMessage({ id, result, error }) {
    if (this.#current?.id !== id) return;
    const { resolve, reject, timer } = this.#current;
    clearTimeout(timer);
    this.#current = null;
    if (error === undefined) resolve(result);
    else reject(new CannotDecode(error));
    this.#next();
  }

  #drop(job) {
    this.#waiting = this.#waiting.filter((other) => other !== job);
    job.reject(job.signal.reason);
  }

  #fail(reason) {
    this.end(reason);
    this.#onFailure();
  }
}

/** The address of the worker, as the page's Trusted Types policy wants it. */
let makeUrl = () => {
  const policy = globalThis.trustedTypes?.createPolicy("edgesam-worker", { createScriptURL: () => WORKER });
  const url = policy ? policy.createScriptURL("") : WORKER;
  makeUrl = () => url; // browsers refuse a second policy of the same name
  return url;
};

function newWorker() {
  try {
    return new Worker(/** @type {any} */ (makeUrl()), { type: "module" });
  } catch (error) {
    throw new CannotDecode("This browser starts no worker.", { cause: error });
  }
}
