/**
 * Sends one request to the service: API key, timeout, progress, repetition while the service is busy, and errors.
 * The answer comes as a whole (`request`) or line by line (`requestLines`).
 *
 * @typedef {{method?: string, body?: Blob | string, headers?: Record<string, string>, signal?: AbortSignal,
 *   onUpload?: (done: number) => void, onDownload?: (bytes: number) => void}} RequestOptions
 * @typedef {{headers: Headers, content: ArrayBuffer, timing: Timing, json: () => Promise<any>}} Received
 * @typedef {{stages: Record<string, number>, roundTripMs: number}} Timing milliseconds: `stages` of the service, and the
 *   whole round trip
 */

const MAX_RETRY_AFTER_S = 10;
const MIN_PROGRESS_BYTES = 2 ** 18; // smaller responses are read at once, without progress
const MAX_LINE_CHARACTERS = 2 ** 25; // far above the longest mask; bounds the memory that another server can take
const BUSY = [429, 502, 503, 504]; // a rate limit, a full queue, or a replica that starts or stops behind a proxy
const UNREACHABLE_TEXTS = {
  timeout: "The service did not answer in time.",
  unreachable: "The service cannot be reached.",
  incomplete: "The answer of the service ended early, or cannot be read.",
};

/**
 * The service refused a request. `code` is stable, and `message` says what to do. `document` is the whole problem document
 * (RFC 9457) with the members of this code, such as `errors` or `limit`; see docs/reference/problems.md.
 */
export class Problem extends Error {
  name = "Problem";

  /**
   * @param {{status: number, code: string, title: string, detail: string, type?: string, instance?: string,
   *   [member: string]: any}} document
   * @param {number | null} retryAfterS seconds to wait before a repetition
   */
  constructor(document, retryAfterS = null) {
    super(document.detail || document.title);
    this.status = document.status;
    this.code = document.code;
    this.title = document.title;
    this.type = document.type ?? "about:blank"; // RFC 9457, section 4.2.1
    this.document = document;
    this.requestId = document.instance ?? "";
    this.retryAfterS = retryAfterS;
  }
}

/** No answer came, none in time, or not all of it. `code` is `unreachable`, `timeout` or `incomplete`. */
export class Unreachable extends Error {
  name = "Unreachable";

  /** @param {"unreachable" | "timeout" | "incomplete"} code @param {unknown} [cause] */
  constructor(code, cause) {
    super(UNREACHABLE_TEXTS[code], { cause });
    this.code = code;
  }
}

/**
 * Parse a Server-Timing header.
 *
 * @param {string | null} header such as `decode;dur=15.20, total;dur=17.01`
 * @returns {Record<string, number>} milliseconds by stage
 */
export function parseServerTiming(header) {
  const entries = (header ?? "").matchAll(/([\w-]+)\s*;[^,]*?dur=([\d.]+)/g);
  return Object.fromEntries(Array.from(entries, ([, stage, duration]) => [stage, Number(duration)]));
}

/**
 * Send a request, and repeat it while the service is busy.
 *
 * @param {string} url
 * @param {RequestOptions & {apiKey: string, timeoutMs: number, retries?: number, busy?: number[]}} options `timeoutMs` bounds
 *   the time without progress, `retries` the number of repetitions; `busy` are statuses after which a request is repeated
 * @returns {Promise<Received>}
 * @throws {Problem | Unreachable} or the signal's reason
 */
export function request(url, { retries = 0, busy = BUSY, ...options }) {
  return repeated(() => sendOnce(url, options), { retries, busy, signal: options.signal });
}

/**
 * Send a request, and yield the lines of its answer as they come. The request is repeated while the service is busy, but
 * not after the answer has begun. Leaving the loop over the lines ends the request.
 *
 * @param {string} url
 * @param {RequestOptions & {apiKey: string, timeoutMs: number, retries?: number}} options as for `request`
 * @returns {AsyncGenerator<string, void, void>} lines without their ends, none of them empty
 * @throws {Problem | Unreachable} or the signal's reason
 */
export async function* requestLines(url, { retries = 0, timeoutMs, signal, ...options }) {
  signal?.throwIfAborted();
  const timeout = new ProgressTimeout(timeoutMs, signal);
  const send = async () => {
    timeout.restart();
    try {
      return await open(url, options, timeout);
    } catch (error) {
      timeout.stop(); // the wait before a repetition may be longer
      throw error;
    }
  };
  try {
    const response = await repeated(send, { retries, busy: BUSY, signal });
    yield* linesOf(response, () => timeout.restart());
  } catch (error) {
    throw failureOf(error, timeout, signal);
  } finally {
    timeout.release();
  }
}

/**
 * Call `send` again while its problem has one of the statuses `busy` and names a short wait.
 *
 * @template T
 * @param {() => Promise<T>} send
 * @param {{retries: number, busy: number[], signal?: AbortSignal}} options
 * @returns {Promise<T>}
 */
async function repeated(send, { retries, busy, signal }) {
  for (;;) {
    try {
      return await send();
    } catch (error) {
      const waitS = error instanceof Problem && busy.includes(error.status) ? (error.retryAfterS ?? 1) : null;
      if (waitS === null || waitS > MAX_RETRY_AFTER_S || retries-- <= 0) throw error;
      await pause(waitS * 1000, signal);
    }
  }
}

/** @param {string} url @param {RequestOptions & {apiKey: string, timeoutMs: number}} options @returns {Promise<Received>} */
async function sendOnce(url, { timeoutMs, signal, onDownload, ...options }) {
  signal?.throwIfAborted();
  const timeout = new ProgressTimeout(timeoutMs, signal);
  const started = performance.now();
  try {
    const response = await open(url, options, timeout);
    const content = await readContent(response, (bytes) => {
      timeout.restart();
      onDownload?.(bytes);
    });
    const roundTripMs = performance.now() - started;
    return {
      headers: response.headers,
      content,
      timing: { stages: parseServerTiming(response.headers.get("server-timing")), roundTripMs },
      json: async () => JSON.parse(new TextDecoder().decode(content)),
    };
  } catch (error) {
    throw failureOf(error, timeout, signal);
  } finally {
    timeout.release();
  }
}

/**
 * Send a request, and return the response once its headers are there.
 *
 * @param {string} url
 * @param {RequestOptions & {apiKey: string}} options
 * @param {ProgressTimeout} timeout
 * @returns {Promise<Response>}
 * @throws {Problem}
 */
async function open(url, { apiKey, method = "GET", body, headers = {}, onUpload }, timeout) {
  const allHeaders = apiKey ? { ...headers, "X-API-Key": apiKey } : headers;
  const send = onUpload && globalThis.XMLHttpRequest ? upload : fetch;
  const response = await send(url, { method, body, headers: allHeaders, signal: timeout.signal }, (done) => {
    timeout.restart();
    onUpload?.(done);
  });
  if (!response.ok) throw problemFrom(response, await readContent(response, () => timeout.restart()));
  return response;
}

/** What a failed request throws: its problem, the caller's reason to abort it, or that there is no answer. @param {unknown} error @param {ProgressTimeout} timeout @param {AbortSignal} [signal] */
function failureOf(error, timeout, signal) {
  if (error instanceof Problem || error instanceof Unreachable) return error;
  if (signal?.aborted) return signal.reason;
  return new Unreachable(timeout.signal.aborted ? "timeout" : "unreachable", error);
}

/** An abort signal that fires when the caller's signal does, or after a time without progress. */
class ProgressTimeout {
  // Not `AbortSignal.any`, which browsers before 2023 lack.
  #controller = new AbortController();
  #timer = /** @type {ReturnType<typeof setTimeout> | undefined} */ (undefined);
  #follow = () => this.#controller.abort(this.#callerSignal?.reason);
  #callerSignal;
  #timeoutMs;

  /** @param {number} timeoutMs @param {AbortSignal} [callerSignal] */
  constructor(timeoutMs, callerSignal) {
    this.#timeoutMs = timeoutMs;
    this.#callerSignal = callerSignal;
    callerSignal?.addEventListener("abort", this.#follow);
    this.restart();
  }

  get signal() {
    return this.#controller.signal;
  }

  restart() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#controller.abort(), this.#timeoutMs);
  }

  stop() {
    clearTimeout(this.#timer);
  }

  release() {
    this.stop();
    this.#callerSignal?.removeEventListener("abort", this.#follow);
  }
}

/** Read a response's body, and report the number of bytes received. @param {Response} response @param {(bytes: number) => void} onBytes @returns {Promise<ArrayBuffer>} */
async function readContent(response, onBytes) {
  const length = Number(response.headers.get("content-length"));
  if (!response.body || length < MIN_PROGRESS_BYTES) return response.arrayBuffer();
  const chunks = [];
  let bytes = 0;
  const reader = response.body.getReader();
  for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
    chunks.push(chunk.value);
    onBytes((bytes += chunk.value.length));
  }
  return new Blob(chunks).arrayBuffer();
}

/** The lines of a response as they come, without empty ones. @param {Response} response @param {() => void} onChunk @returns {AsyncGenerator<string>} */
async function* linesOf(response, onChunk) {
  if (!response.body) throw new Unreachable("incomplete");
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
      onChunk();
      const [first, ...others] = decoder.decode(chunk.value, { stream: true }).split("\n");
      const lines = [rest + first, ...others];
      rest = /** @type {string} */ (lines.pop());
      for (const line of lines) if (line.trim()) yield line;
      if (rest.length > MAX_LINE_CHARACTERS) throw new Unreachable("incomplete");
    }
    if (rest.trim()) yield rest;
  } finally {
    await reader.cancel().catch(() => {}); // a broken connection has nothing to cancel
  }
}

/**
 * Like `fetch`, and reports the progress of the upload, which `fetch` cannot do.
 *
 * @param {string} url
 * @param {{method: string, body?: Blob | string, headers: Record<string, string>, signal: AbortSignal}} options
 * @param {(done: number) => void} onUpload
 * @returns {Promise<Response>}
 */
function upload(url, { method, body, headers, signal }, onUpload) {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    const abort = () => xhr.abort();
    const fail = () => reject(new TypeError("The upload failed."));
    xhr.open(method, url);
    xhr.responseType = "arraybuffer";
    for (const [name, value] of Object.entries(headers)) xhr.setRequestHeader(name, value);
    xhr.upload.onprogress = ({ loaded, total }) => onUpload(total ? Math.min(loaded / total, 0.999) : 0);
    xhr.upload.onload = () => onUpload(1);
    xhr.onerror = fail;
    xhr.onabort = fail;
    xhr.onload = () => {
      const received = new Headers();
      for (const [, name, value] of xhr.getAllResponseHeaders().matchAll(/^([^:\r\n]+):(.*)$/gm)) {
        received.append(name, value.trim());
      }
      resolve(new Response(xhr.response, { status: xhr.status, headers: received }));
    };
    xhr.onloadend = () => signal.removeEventListener("abort", abort);
    signal.addEventListener("abort", abort);
    xhr.send(body);
  });
}

/** The `Problem` of an error response. A proxy's response has no problem document, and gets the code `http-STATUS`. @param {Response} response @param {ArrayBuffer} content */
function problemFrom(response, content) {
  const retryAfter = Number.parseFloat(response.headers.get("retry-after") ?? "");
  const retryAfterS = Number.isFinite(retryAfter) ? retryAfter : null;
  try {
    const document = JSON.parse(new TextDecoder().decode(content));
    if (typeof document.code === "string") return new Problem(document, retryAfterS);
  } catch {
    // not JSON, or the response to a HEAD request, which has no body
  }
  const title = `The service answered ${response.status}`;
  return new Problem({ status: response.status, code: `http-${response.status}`, title, detail: "" }, retryAfterS);
}

/** Null if a look-up found no image, or was not possible without Redis, which an upload does not need. @param {unknown} error @returns {null} */
export function missingIfUnavailable(error) {
  if (error instanceof Problem && (error.status === 404 || error.status === 503)) return null;
  throw error;
}

/**
 * The result of work, or the signal's reason as soon as it aborts. The work goes on, because others wait for it.
 *
 * @template T
 * @param {Promise<T>} work
 * @param {AbortSignal} [signal]
 * @returns {Promise<T>}
 */
export function untilAborted(work, signal) {
  if (!signal) return work;
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason);
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
  });
}

/** @param {number} ms @param {AbortSignal | undefined} signal @returns {Promise<void>} */
function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
}
