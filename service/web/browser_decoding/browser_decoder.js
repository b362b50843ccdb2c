/**
 * Decodes in this browser what the service has embedded: a click is then no request. `segment` is that of `Client`, so
 * that whoever asks need not know which of the two answers.
 *
 * A picture costs one download of its embedding, 2 MiB; the first one also the decoder, 13 MB, which stays in the
 * browser's cache. Work is done in a worker, one thing after the other, clicks before what is only a glimpse.
 *
 * @typedef {{stage: "decoder" | "embedding" | "prepare" | "end", done: number}} LoadProgress `done` is a part of 1
 * @typedef {{message: object, transfer: Transferable[], resolve: (result: any) => void,
 *   reject: (error: Error) => void, signal?: AbortSignal, isUrgent: boolean}} Job
 */

import { Problem } from "../client/edgesam.js";

const WORKER = new URL("decoder_worker.js", import.meta.url).href;
const MOST_WAIT_MS = 60_000; // of one piece of work; a browser that takes longer is of no use here

/** This browser cannot do it, or not any more. */
export class CannotDecode extends Error {
  name = "CannotDecode";
  code = "cannot-decode-here";
}

/** The service runs another model than the one that was loaded here. */
export class ModelChanged extends Error {
  name = "ModelChanged";
  code = "model-changed";
}

export class BrowserDecoder {
  #client;
  #model;
  #worker = /** @type {WorkerLine | null} */ (null);
  #loading = /** @type {Promise<void> | null} */ (null);
  #picture = { imageHash: "", opening: Promise.resolve() };

  /**
   * @param {import("../client/edgesam.js").Client} client fetches what is needed
   * @param {import("../client/edgesam.js").Model} model with `files`
   */
  constructor(client, model) {
    this.#client = client;
    this.#model = model;
    /** @type {(progress: LoadProgress) => void} */
    this.onProgress = () => {};
    /** @type {(ms: number) => void} a picture was prepared */
    this.onPrepared = () => {};
  }

  /**
   * Make a picture ready. Once for each: the same picture again is ready already.
   *
   * @param {string} imageHash of an embedded picture
   * @throws {CannotDecode | ModelChanged | Problem | import("../client/edgesam.js").Unreachable}
   */
  open(imageHash) {
    if (this.#picture.imageHash !== imageHash) {
      const opening = this.#open(imageHash);
      this.#picture = { imageHash, opening };
      opening.catch(() => {
        if (this.#picture.opening === opening) this.#picture = { imageHash: "", opening: Promise.resolve() };
      });
    }
    return this.#picture.opening;
  }

  /**
   * See `Client.segment`; one prompt, and a mask to refine as `mask_logits`.
   *
   * @param {string} imageHash
   * @param {import("../client/edgesam.js").Prompt[]} prompts
   * @param {{multimask?: import("./ranking.js").Multimask, signal?: AbortSignal, isGlimpse?: boolean}} options
   * @returns {Promise<{results: {masks: import("../client/edgesam.js").Mask[]}[], timing: import("../client/edgesam.js").Timing}>}
   */
  async segment(imageHash, [prompt], { multimask = "auto", signal, isGlimpse = false } = {}) {
    if (prompt.mask_id) {
      const title = "A mask of the service cannot be refined here";
      throw new Problem({ status: 404, code: "mask-not-found", title, detail: "" });
    }
    await this.open(imageHash);
    signal?.throwIfAborted();
    const started = performance.now();
    const { masks, stages } = await this.#line().do({ kind: "answer", prompt, multimask }, { signal, isUrgent: !isGlimpse });
    const total = performance.now() - started;
    return { results: [{ masks }], timing: { stages: { ...stages, total }, roundTripMs: total } };
  }

  /** Give back what it holds: 100 MB. It can be used again. */
  close() {
    this.#worker?.end();
    this.#worker = null;
    this.#loading = null;
    this.#picture = { imageHash: "", opening: Promise.resolve() };
  }

  async #open(imageHash) {
    try {
      this.onProgress({ stage: "decoder", done: 0 });
      this.#loading ??= this.#load();
      const [{ tokens, size, fingerprint }] = await Promise.all([this.#client.embedding(imageHash), this.#loading]);
      if (fingerprint !== this.#model.fingerprint) throw new ModelChanged("The service has another model now.");
      if (this.#picture.imageHash !== imageHash) return; // another one meanwhile
      this.onProgress({ stage: "prepare", done: 0 });
      const { stages } = await this.#line().do({ kind: "open", tokens, size }, { transfer: [tokens.buffer] });
      this.onPrepared(stages.prepare);
    } catch (error) {
      if (!this.#worker) this.#loading = null;
      throw error;
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
      this.#worker = new WorkerLine(() => this.close());
      await this.#worker.do({ kind: "load", graphs, ranking: this.#model.ranking }, { transfer });
    } catch (error) {
      this.close();
      throw error.code === "not-found" ? new ModelChanged("The service has other files now.") : error;
    }
  }

  #line() {
    if (!this.#worker) throw new CannotDecode("The decoder in this browser has ended.");
    return this.#worker;
  }
}

/** A worker and what waits for it. */
class WorkerLine {
  #worker;
  #onBroken;
  /** @type {Job[]} */
  #waiting = [];
  #current = /** @type {(Job & {id: number, timer: number}) | null} */ (null);
  #nextId = 1;

  /** @param {() => void} onBroken it has ended by itself */
  constructor(onBroken) {
    this.#onBroken = onBroken;
    this.#worker = newWorker();
    this.#worker.addEventListener("message", ({ data }) => this.#answered(data));
    this.#worker.addEventListener("error", (event) => this.#break(event.message || "The worker did not start."));
  }

  /**
   * @param {object} message
   * @param {{transfer?: Transferable[], signal?: AbortSignal, isUrgent?: boolean}} [options] urgent: before what is not
   * @returns {Promise<any>}
   */
  do(message, { transfer = [], signal, isUrgent = true } = {}) {
    return new Promise((resolve, reject) => {
      const job = { message, transfer, resolve, reject, signal, isUrgent };
      // What has begun goes on to its end; nobody waits for it any more.
      signal?.addEventListener("abort", () => this.#drop(job), { once: true });
      const place = isUrgent ? this.#waiting.findIndex((other) => !other.isUrgent) : -1;
      this.#waiting.splice(place < 0 ? this.#waiting.length : place, 0, job);
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
    const timer = setTimeout(() => this.#break("It takes too long."), MOST_WAIT_MS);
    this.#current = { ...job, id: this.#nextId++, timer };
    this.#worker.postMessage({ id: this.#current.id, ...job.message }, job.transfer);
  }

  #answered({ id, result, error }) {
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

  #break(reason) {
    this.end(reason);
    this.#onBroken();
  }
}

/** The page's policy allows this one address and no other. */
let makeUrl = () => {
  const policy = globalThis.trustedTypes?.createPolicy("edgesam-worker", { createScriptURL: () => WORKER });
  const url = policy ? policy.createScriptURL("") : WORKER;
  makeUrl = () => url; // a second policy of the name would be refused
  return url;
};

function newWorker() {
  try {
    return new Worker(/** @type {any} */ (makeUrl()), { type: "module" });
  } catch (error) {
    throw new CannotDecode("This browser starts no worker.", { cause: error });
  }
}
