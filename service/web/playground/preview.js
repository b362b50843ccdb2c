/**
 * Previews of a prompt that changes with the pointer: at most one request at a time, and the newest prompt replaces a
 * waiting one.
 *
 * @typedef {import("./prompts.js").SessionPrompt} SessionPrompt
 */

const HOVER_INTERVAL_MS = 50; // fast enough for the eye; more previews would delay the clicks of other users
const HOVER_TIMEOUT_MS = 300; // a preview slower than this is cancelled in favour of the pointer's present position

export class Preview {
  #send;
  #wanted = null;
  #requested = null;
  #controller = new AbortController();
  #startedAt = -Infinity;
  #timer = 0;

  /** @param {(prompt: SessionPrompt, signal: AbortSignal) => Promise<object>} send resolves to a mask */
  constructor(send) {
    this.#send = send;
    /** @type {(mask: import("../client/edgesam.js").Mask | null) => void} */
    this.onChange = () => {};
  }

  /** @param {SessionPrompt | null} prompt null removes the preview */
  request(prompt) {
    this.#wanted = prompt;
    if (prompt === null) {
      this.#controller.abort();
      clearTimeout(this.#timer);
      this.#timer = 0;
      this.onChange(null);
    } else {
      this.#schedule();
    }
  }

  #schedule() {
    if (this.#timer || this.#wanted === null || this.#wanted === this.#requested) return;
    const interval = this.#requested === null ? HOVER_INTERVAL_MS : HOVER_TIMEOUT_MS;
    const wait = this.#startedAt + interval - performance.now();
    this.#timer = setTimeout(() => {
      this.#timer = 0;
      this.#start();
    }, Math.max(0, wait));
  }

  async #start() {
    this.#controller.abort();
    const controller = new AbortController();
    this.#controller = controller;
    const prompt = this.#wanted;
    if (prompt === null) return;
    this.#requested = prompt;
    this.#startedAt = performance.now();
    let mask = null;
    try {
      mask = await this.#send(prompt, controller.signal);
    } catch {
      // A failed preview shows nothing. A click at the same place reports the error.
    }
    if (this.#controller !== controller) return;
    this.#requested = null;
    if (controller.signal.aborted) return;
    this.onChange(mask);
    if (this.#wanted !== prompt) {
      clearTimeout(this.#timer); // it may have been set to this request's timeout
      this.#timer = 0;
      this.#schedule();
    }
  }
}
