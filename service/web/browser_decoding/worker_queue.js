/**
 * The worker that decodes, and the queue of its jobs.
 *
 * @typedef {{message: object, transfer: Transferable[], resolve: (result: any) => void,
 *   reject: (error: Error) => void, signal?: AbortSignal, isUrgent: boolean}} Job
 */

const WORKER = new URL("decoder_worker.js", import.meta.url).href;
const MAX_JOB_MS = 60_000; // a browser that takes longer is too slow for clicks

/** This browser cannot decode, or its worker has ended. */
export class CannotDecode extends Error {
  name = "CannotDecode";
  code = "cannot-decode-here";
}

export class WorkerQueue {
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
