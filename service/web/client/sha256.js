/**
 * SHA-256 of a file: with `crypto.subtle` where it exists, else in JavaScript.
 *
 * `crypto.subtle` exists on https and on localhost only. Services in internal networks often use plain http.
 */

const CHUNK_BYTES = 1 << 20; // about 5 ms of work; the event loop runs between chunks, so the page stays responsive

/**
 * @param {Blob} blob
 * @param {{onProgress?: (done: number) => void, signal?: AbortSignal}} [options] `onProgress` gets the share that is hashed, 0..1
 * @returns {Promise<string>} 64 lower-case hex digits
 */
export async function sha256(blob, { onProgress, signal } = {}) {
  if (globalThis.crypto?.subtle) {
    const digest = await crypto.subtle.digest("SHA-256", await blob.arrayBuffer());
    signal?.throwIfAborted();
    return hex(new Uint8Array(digest));
  }
  const hash = new Sha256();
  for (let start = 0; start < blob.size; start += CHUNK_BYTES) {
    const chunk = await blob.slice(start, start + CHUNK_BYTES).arrayBuffer();
    signal?.throwIfAborted();
    hash.update(new Uint8Array(chunk));
    onProgress?.(Math.min(1, (start + CHUNK_BYTES) / blob.size));
  }
  return hex(hash.digest());
}

/** SHA-256 of data that comes in chunks. Source: FIPS 180-4. */
export class Sha256 {
  #state = Uint32Array.from(INITIAL);
  #block = new Uint8Array(64);
  #filled = 0;
  #length = 0;

  /** @param {Uint8Array} bytes */
  update(bytes) {
    this.#length += bytes.length;
    let start = 0;
    if (this.#filled > 0) {
      start = Math.min(64 - this.#filled, bytes.length);
      this.#block.set(bytes.subarray(0, start), this.#filled);
      this.#filled += start;
      if (this.#filled < 64) return;
      compress(this.#state, this.#block, 0);
    }
    for (; start + 64 <= bytes.length; start += 64) compress(this.#state, bytes, start);
    this.#block.set(bytes.subarray(start));
    this.#filled = bytes.length - start;
  }

  /** The hash. `update` must not be called afterwards. @returns {Uint8Array} 32 bytes */
  digest() {
    const padding = new Uint8Array(this.#filled < 56 ? 64 - this.#filled : 128 - this.#filled);
    padding[0] = 0x80;
    const view = new DataView(padding.buffer);
    view.setUint32(padding.length - 8, Math.floor(this.#length / 2 ** 29));
    view.setUint32(padding.length - 4, (this.#length << 3) >>> 0);
    this.update(padding);
    const digest = new DataView(new ArrayBuffer(32));
    this.#state.forEach((word, i) => digest.setUint32(4 * i, word));
    return new Uint8Array(digest.buffer);
  }
}

const PRIMES = firstPrimes(64);
// The standard's constants: the first 32 bits of the fractional parts of the roots of the first primes.
const INITIAL = PRIMES.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)));
const ROUND = Int32Array.from(PRIMES, (prime) => fraction(Math.cbrt(prime)) | 0);
const schedule = new Int32Array(64);

/** @param {Uint32Array} state @param {Uint8Array} bytes @param {number} start */
function compress(state, bytes, start) {
  const w = schedule;
  for (let i = 0, at = start; i < 16; i++, at += 4) {
    w[i] = (bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3];
  }
  for (let i = 16; i < 64; i++) {
    const x = w[i - 15];
    const y = w[i - 2];
    const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
    const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
    w[i] = (w[i - 16] + s0 + w[i - 7] + s1) | 0;
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let i = 0; i < 64; i++) {
    const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
    const t1 = (h + s1 + ((e & f) ^ (~e & g)) + ROUND[i] + w[i]) | 0;
    const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
    const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    h = g;
    g = f;
    f = e;
    e = (d + t1) | 0;
    d = c;
    c = b;
    b = a;
    a = (t1 + t2) | 0;
  }
  [a, b, c, d, e, f, g, h].forEach((word, i) => {
    state[i] += word;
  });
}

/** @param {number} count */
function firstPrimes(count) {
  /** @type {number[]} */
  const primes = [];
  for (let n = 2; primes.length < count; n++) if (primes.every((prime) => n % prime)) primes.push(n);
  return primes;
}

/** @param {number} x */
function fraction(x) {
  return Math.floor((x - Math.floor(x)) * 2 ** 32);
}

/** @param {Uint8Array} bytes */
function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
