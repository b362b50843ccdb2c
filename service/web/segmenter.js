/**
 * Asks the service: for the masks of what the user pointed at, and for a glimpse of what a click would give.
 *
 * Clicks are all answered, unless undone meanwhile. Of glimpses there is one at a time, and the newest place wins.
 */

import { Problem } from "./edgesam.js";

const CANDIDATES = 3;
const HOVER_EVERY_MS = 50; // as the eye follows; more would only keep the decoder from others' clicks
const HOVER_PATIENCE_MS = 300; // then the place under the pointer now is worth more than an old answer

export class Segmenter {
  #client;
  #session;
  #imageHash = "";
  /** @type {Map<import("./session.js").SessionPrompt, AbortController>} */
  #asking = new Map();
  #failed = new Set();
  #forgotten = new WeakSet();
  #glimpse = new Glimpse((point, signal) => this.#look(point, signal));

  /**
   * @param {import("./edgesam.js").Client} client
   * @param {import("./session.js").Session} session is told the answers
   */
  constructor(client, session) {
    this.#client = client;
    this.#session = session;
    /** @type {(timing: import("./edgesam.js").Timing) => void} */
    this.onTiming = () => {};
    /** @type {(mask: import("./edgesam.js").Mask | null) => void} */
    this.onGlimpse = () => {};
    /** @type {(error: Error) => void} */
    this.onError = () => {};
    this.#glimpse.onChange = (mask) => this.onGlimpse(mask);
    session.addEventListener("change", () => this.update());
  }

  /** Begin with another picture; an empty hash: none yet, and what is pointed at waits. @param {string} imageHash */
  setPicture(imageHash) {
    for (const controller of this.#asking.values()) controller.abort();
    this.#asking.clear();
    this.#failed.clear();
    this.#glimpse.want(null);
    this.#imageHash = imageHash;
    this.update();
  }

  /** Ask for what is not answered, let go of what is no longer wanted. */
  update() {
    const wanted = this.#session.objects.map(({ prompt }) => prompt);
    for (const [prompt, controller] of this.#asking) {
      if (wanted.includes(prompt)) continue;
      controller.abort();
      this.#asking.delete(prompt); // at once: redo may want it again before the request has ended
    }
    for (const prompt of wanted) if (prompt) this.#ask(prompt);
  }

  /** Ask again for what failed. */
  retry() {
    this.#failed.clear();
    this.update();
  }

  /** What a click there would give, by and by; null: nothing any more. @param {{x: number, y: number} | null} point */
  hover(point) {
    this.#glimpse.want(this.#imageHash ? point : null);
  }

  /** The request for a prompt, as `Client.segment` takes it. @param {import("./session.js").SessionPrompt} prompt */
  requestOf(prompt) {
    const { points, box } = prompt;
    const maskId = this.#forgotten.has(prompt) ? null : prompt.maskId;
    const isAmbiguous = points.length === 1 && !box && !maskId;
    return {
      prompts: [{ ...(points.length && { points }), ...(box && { box }), ...(maskId && { mask_id: maskId }) }],
      options: { multimask: /** @type {1 | 3} */ (isAmbiguous ? CANDIDATES : 1) },
    };
  }

  async #ask(prompt) {
    const isDone = this.#session.isAnswered(prompt) || this.#asking.has(prompt) || this.#failed.has(prompt);
    if (isDone || !this.#imageHash) return;
    const controller = new AbortController();
    this.#asking.set(prompt, controller);
    try {
      const answer = await this.#segment(prompt, controller.signal);
      this.onTiming(answer.timing);
      this.#session.answer(prompt, answer.results[0].masks);
    } catch (error) {
      if (controller.signal.aborted) return;
      this.#failed.add(prompt);
      this.onError(error);
    } finally {
      if (this.#asking.get(prompt) === controller) this.#asking.delete(prompt);
    }
  }

  async #segment(prompt, signal) {
    const ask = () => {
      const { prompts, options } = this.requestOf(prompt);
      return this.#client.segment(this.#imageHash, prompts, { ...options, signal });
    };
    try {
      return await ask();
    } catch (error) {
      // Masks to refine are kept for minutes only. All the points are here, so the answer is nearly the same without.
      if (!(error instanceof Problem && error.code === "mask-not-found") || !prompt.maskId) throw error;
      this.#forgotten.add(prompt);
      return ask();
    }
  }

  async #look(point, signal) {
    const options = { multimask: /** @type {3} */ (CANDIDATES), retries: 0, signal };
    const answer = await this.#client.segment(this.#imageHash, [{ points: [{ ...point, label: 1 }] }], options);
    return answer.results[0].masks[0];
  }
}

/** One question at a time about a place that moves. */
class Glimpse {
  #look;
  #wanted = null;
  #asked = null;
  #controller = new AbortController();
  #startedAt = -Infinity;
  #timer = 0;

  constructor(look) {
    this.#look = look;
    /** @type {(mask: import("./edgesam.js").Mask | null) => void} */
    this.onChange = () => {};
  }

  want(point) {
    this.#wanted = point;
    if (point === null) {
      this.#controller.abort();
      clearTimeout(this.#timer);
      this.#timer = 0;
      this.onChange(null);
    } else {
      this.#schedule();
    }
  }

  #schedule() {
    if (this.#timer || this.#wanted === null || this.#wanted === this.#asked) return;
    const patience = this.#asked === null ? HOVER_EVERY_MS : HOVER_PATIENCE_MS;
    const wait = this.#startedAt + patience - performance.now();
    this.#timer = setTimeout(() => {
      this.#timer = 0;
      this.#start();
    }, Math.max(0, wait));
  }

  async #start() {
    this.#controller.abort();
    const controller = new AbortController();
    this.#controller = controller;
    const point = this.#wanted;
    if (point === null) return;
    this.#asked = point;
    this.#startedAt = performance.now();
    let mask = null;
    try {
      mask = await this.#look(point, controller.signal);
    } catch {
      // A glimpse that fails is none; a click will say why.
    }
    if (this.#controller !== controller) return;
    this.#asked = null;
    if (controller.signal.aborted) return;
    this.onChange(mask);
    if (this.#wanted !== point) {
      clearTimeout(this.#timer); // it may have been set for the patience with this answer
      this.#timer = 0;
      this.#schedule();
    }
  }
}
