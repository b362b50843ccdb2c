/**
 * Asks for the masks of what the user pointed at, and for a glimpse of what a click would give: the service, or the
 * decoder in this browser.
 *
 * Clicks are all answered, unless undone meanwhile. Of glimpses there is one at a time, and the newest place wins.
 */

import { Problem } from "../client/edgesam.js";

/**
 * @typedef {import("./session.js").SessionPrompt} SessionPrompt
 * @typedef {{segment: (imageHash: string, prompts: import("../client/edgesam.js").Prompt[], options: object) =>
 *   Promise<Pick<import("../client/edgesam.js").Answer, "results" | "timing">>}} Asked `Client` or `BrowserDecoder`
 */

const HOVER_EVERY_MS = 50; // as the eye follows; more would only keep the decoder from others' clicks
const HOVER_PATIENCE_MS = 300; // then the place under the pointer now is worth more than an old answer

export class Segmenter {
  /** @type {Asked} */
  #asked;
  #session;
  #imageHash = "";
  /** @type {Map<SessionPrompt, AbortController>} */
  #asking = new Map();
  #failed = new Set();
  #forgotten = new WeakSet();
  #glimpse = new Glimpse((point, signal) => this.#look(point, signal));

  /**
   * @param {Asked} asked
   * @param {import("./session.js").Session} session is told the answers
   */
  constructor(asked, session) {
    this.#asked = asked;
    this.#session = session;
    /** Whether a click means the whole object around it; only the service of some models knows that. */
    this.growsClicks = false;
    /** @type {(timing: import("../client/edgesam.js").Timing, asked: Asked) => void} */
    this.onTiming = () => {};
    /** @type {(mask: import("../client/edgesam.js").Mask | null) => void} */
    this.onGlimpse = () => {};
    /** @type {(error: Error) => void} */
    this.onError = () => {};
    this.#glimpse.onChange = (mask) => this.onGlimpse(mask);
    session.addEventListener("change", () => this.update());
  }

  /** Whom to ask from now on. @param {Asked} asked */
  ask(asked) {
    if (asked === this.#asked) return;
    this.#asked = asked;
    this.setPicture(this.#imageHash);
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
    for (const prompt of wanted) if (prompt) this.#answer(prompt);
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

  /** The request for a prompt, as `segment` takes it. @param {Pick<SessionPrompt, "points" | "box" | "refined">} prompt */
  requestOf(prompt) {
    const { points, box } = prompt;
    const refined = this.#forgotten.has(prompt) ? null : prompt.refined;
    const isGrown = points.length === 1 && !box && !refined && this.growsClicks && points[0].label === 1;
    return {
      prompts: [{ ...(points.length && { points }), ...(box && { box }), ...(refined && maskOf(refined)) }],
      // The model's rule chooses among all masks of an ambiguous click, as for everybody who asks the service.
      options: {
        multimask: /** @type {const} */ ("auto"),
        ...(isGrown && { granularity: /** @type {const} */ ("auto") }),
      },
    };
  }

  async #answer(prompt) {
    const isDone = this.#session.isAnswered(prompt) || this.#asking.has(prompt) || this.#failed.has(prompt);
    if (isDone || !this.#imageHash) return;
    const controller = new AbortController();
    const asked = this.#asked;
    this.#asking.set(prompt, controller);
    try {
      const { results, timing } = await this.#segment(prompt, controller.signal);
      if (controller.signal.aborted) return;
      this.onTiming(timing, asked);
      this.#session.answer(prompt, results[0].masks, results[0].granularity_box);
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
      return this.#asked.segment(this.#imageHash, prompts, { ...options, signal });
    };
    try {
      return await ask();
    } catch (error) {
      // The service keeps masks to refine for minutes only, and the decoder in the browser has none of the service's.
      // All the points are here, so the answer is nearly the same without.
      if (!(error instanceof Problem && error.code === "mask-not-found") || !prompt.refined) throw error;
      this.#forgotten.add(prompt);
      return ask();
    }
  }

  async #look(point, signal) {
    const { prompts, options } = this.requestOf({ points: [{ ...point, label: 1 }], box: null, refined: null });
    const answer = await this.#asked.segment(this.#imageHash, prompts, { ...options, isGlimpse: true, signal });
    return answer.results[0].masks[0];
  }
}

/** How a mask is named to whom it is to be refined by. @param {import("../client/edgesam.js").Mask} mask */
function maskOf({ mask_id: maskId, logits }) {
  return maskId ? { mask_id: maskId } : { mask_logits: logits };
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
    /** @type {(mask: import("../client/edgesam.js").Mask | null) => void} */
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
