/**
 * Requests the masks of the session's prompts, and previews: of a click at the pointer, and of a prompt during a drag.
 *
 * The backend is the service or the decoder in this browser. Each click gets an answer, unless the user undoes it
 * first. The answers of an image that was left go into its session, where exports of all images find them.
 */

import { Problem } from "../client/edgesam.js";
import { Preview } from "./preview.js";
import { withPoint } from "./prompts.js";

/**
 * @typedef {import("./session.js").SessionPrompt} SessionPrompt
 * @typedef {{segment: (imageHash: string, prompts: import("../client/edgesam.js").Prompt[], options: object) =>
 *   Promise<Pick<import("../client/edgesam.js").Answer, "results" | "timing">>}} Backend `Client` or `BrowserDecoder`
 * @typedef {{controller: AbortController, left: import("./session.js").Session | null}} Request `left` is the session of the
 *   prompt, after its image was left
 */

export class Segmenter {
  /** @type {Backend} */
  #backend;
  #service;
  #session;
  #imageHash = "";
  /** @type {Map<SessionPrompt, Request>} requests of the image in view */
  #pending = new Map();
  /** @type {Set<Promise<void>>} requests on their way, also those of images that were left */
  #running = new Set();
  #failed = new Set();
  #unrefinable = new WeakSet();
  /** @type {WeakMap<SessionPrompt, string>} */
  #answeredBy = new WeakMap();
  #preview = new Preview((prompt, signal) => this.#requestPreview(prompt, signal));
  #draft = new Preview((prompt, signal) => this.#requestPreview(prompt, signal));

  /**
   * @param {Backend} backend the service, until `setBackend`
   * @param {import("./session.js").Session} session gets the answers
   */
  constructor(backend, session) {
    this.#backend = backend;
    this.#service = backend;
    this.#session = session;
    /** Whether a click selects the whole object around it. Only the service can do it, and only with some models. */
    this.selectsWholeObject = false;
    /**
     * The id of the image that answers a prompt: of the whole image, or of a region of it, which only the service decodes.
     *
     * @type {(prompt: SessionPrompt, imageHash: string) => string}
     */
    this.imageOf = (_prompt, imageHash) => imageHash;
    /** @type {(timing: import("../client/edgesam.js").Timing, backend: Backend) => void} */
    this.onTiming = () => {};
    /** @type {(mask: import("../client/edgesam.js").Mask | null) => void} */
    this.onPreview = () => {};
    /** @type {(error: Error) => void} */
    this.onError = () => {};
    this.#preview.onChange = (mask) => this.onPreview(mask);
    /** @type {(mask: import("../client/edgesam.js").Mask | null) => void} */
    this.onDraft = () => {};
    this.#draft.onChange = (mask) => this.onDraft(mask);
    session.addEventListener("change", () => this.update());
  }

  /** Send later requests to this backend. @param {Backend} backend */
  setBackend(backend) {
    if (backend === this.#backend) return;
    this.#backend = backend;
    this.setImage(this.#imageHash);
  }

  /**
   * Switch to another image.
   *
   * @param {string} imageHash empty while the image is not embedded; prompts wait until then
   */
  setImage(imageHash) {
    for (const { controller } of this.#pending.values()) controller.abort();
    this.#pending.clear();
    this.#failed.clear();
    this.#preview.request(null);
    this.#draft.request(null);
    this.#imageHash = imageHash;
    this.update();
  }

  /**
   * Leave the image. Requests on their way are still answered; a failed one is repeated when the image comes back.
   *
   * @param {import("./session.js").Session} session of the image
   */
  leave(session) {
    for (const request of this.#pending.values()) request.left = session;
    this.#pending.clear();
    this.setImage("");
  }

  /** Wait until all requests on their way have ended. @param {number} timeoutMs longest time to wait */
  async settled(timeoutMs) {
    let timer = 0;
    const timeout = new Promise((resolve) => {
      timer = setTimeout(resolve, timeoutMs);
    });
    await Promise.race([Promise.allSettled(this.#running), timeout]);
    clearTimeout(timer);
  }

  /** Request the masks of new prompts, and cancel requests whose prompt was removed. */
  update() {
    const wanted = this.#session.objects.map(({ prompt }) => prompt);
    for (const [prompt, { controller }] of this.#pending) {
      if (wanted.includes(prompt)) continue;
      controller.abort();
      this.#pending.delete(prompt); // at once: redo may bring the prompt back before the request has ended
    }
    for (const prompt of wanted) if (prompt) this.#answer(prompt);
  }

  /** Repeat the requests that failed. */
  retry() {
    this.#failed.clear();
    this.update();
  }

  /** Request the preview of a click. @param {{x: number, y: number} | null} point null removes the preview */
  hover(point) {
    this.#preview.request(this.#imageHash && point ? withPoint(null, { ...point, label: 1 }, null) : null);
  }

  /** Request the mask of a prompt that the user still changes, such as a dragged point. @param {SessionPrompt | null} prompt null ends it */
  draft(prompt) {
    this.#draft.request(this.#imageHash && prompt && !prompt.given ? prompt : null);
  }

  /**
   * The arguments of `segment` for a prompt. That of a given mask is the request that refines it.
   *
   * @param {SessionPrompt} prompt
   * @param {{knows: (mask: import("../client/edgesam.js").Mask) => boolean}} [session] the session of the prompt
   * @param {{isForAll?: boolean}} [options] `isForAll` leaves out masks that only the service takes
   */
  requestOf(prompt, session = this.#session, { isForAll = false } = {}) {
    const { points } = prompt;
    const wanted = prompt.given ?? prompt.refined;
    const isGiven = wanted !== null && wanted === prompt.base;
    const canRefine = wanted && (isGiven || session.knows(wanted)) && !this.#unrefinable.has(prompt);
    const isTaken = !isForAll || (!isGiven && !wanted?.mask_id);
    const refined = canRefine && isTaken ? wanted : null;
    // The service smooths a mask without points and box. Where the mask cannot be sent, its box stands for it.
    const box = prompt.box ?? (points.length === 0 && wanted && !refined ? wanted.box : null);
    const isWholeObject = points.length === 1 && !box && !refined && this.selectsWholeObject && points[0].label === 1;
    return {
      prompts: [{ ...(points.length && { points }), ...(box && { box }), ...(refined && maskPrompt(refined, isGiven)) }],
      // "auto", the default of the service: an ambiguous click gets all four masks, ordered by the model's ranking rule.
      options: {
        multimask: /** @type {const} */ ("auto"),
        cleanup: /** @type {const} */ ("auto"),
        ...(isWholeObject && { granularity: /** @type {const} */ ("auto") }),
      },
    };
  }

  /** The id of the image whose answer a prompt has; empty if that is not known. @param {SessionPrompt} prompt */
  answeredBy(prompt) {
    return this.#answeredBy.get(prompt) ?? "";
  }

  #answer(prompt) {
    const isDone = this.#session.isAnswered(prompt) || this.#pending.has(prompt) || this.#failed.has(prompt);
    if (isDone || !this.#imageHash) return;
    const request = { controller: new AbortController(), left: null };
    this.#pending.set(prompt, request);
    const running = this.#ask(prompt, request).finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  /** @param {SessionPrompt} prompt @param {Request} request */
  async #ask(prompt, request) {
    const { signal } = request.controller;
    const target = this.#targetOf(prompt);
    try {
      const { results, timing } = await this.#segment(prompt, target, signal);
      const session = request.left ?? this.#session;
      if (signal.aborted || session.isAnswered(prompt)) return; // the image may have come back before the answer
      this.#answeredBy.set(prompt, target.imageId);
      if (!request.left) this.onTiming(timing, target.backend);
      session.answer(prompt, results[0].masks, results[0].granularity_box);
    } catch (error) {
      if (signal.aborted || request.left) return;
      this.#failed.add(prompt);
      this.onError(error);
    } finally {
      if (this.#pending.get(prompt) === request) this.#pending.delete(prompt);
    }
  }

  /** The image that answers a prompt, and what decodes it. @param {SessionPrompt} prompt */
  #targetOf(prompt) {
    const imageId = this.imageOf(prompt, this.#imageHash);
    return { imageId, backend: imageId === this.#imageHash ? this.#backend : this.#service };
  }

  /** The id of the image that has answered a prompt, or will answer it. @param {SessionPrompt} prompt */
  imageIdOf(prompt) {
    return (this.#session.isAnswered(prompt) && this.answeredBy(prompt)) || this.imageOf(prompt, this.#imageHash);
  }

  async #segment(prompt, { imageId, backend }, signal) {
    const send = () => {
      const { prompts, options } = this.requestOf(prompt);
      return backend.segment(imageId, prompts, { ...options, signal });
    };
    try {
      return await send();
    } catch (error) {
      // The service keeps masks for refinement for some minutes only, and the decoder in this browser has none of them.
      // The prompt holds all points, so its answer without the mask is nearly the same.
      if (!(error instanceof Problem && error.code === "mask-not-found") || !prompt.refined) throw error;
      this.#unrefinable.add(prompt);
      return send();
    }
  }

  async #requestPreview(prompt, signal) {
    const { prompts, options } = this.requestOf(prompt);
    const { imageId, backend } = this.#targetOf(prompt);
    const answer = await backend.segment(imageId, prompts, { ...options, isGlimpse: true, signal });
    return answer.results[0].masks[0];
  }
}

/**
 * The member of a prompt that refines a mask: `mask` for a given mask, `mask_id` for an answer of the service, else logits.
 *
 * @param {import("../client/edgesam.js").Mask} mask
 * @param {boolean} isGiven
 */
function maskPrompt({ rle, mask_id: maskId, logits }, isGiven) {
  if (isGiven) return { mask: rle };
  return maskId ? { mask_id: maskId } : { mask_logits: logits };
}
