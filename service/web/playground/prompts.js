/**
 * Prompts of the page. Each change makes a new prompt.
 *
 * @typedef {import("../client/edgesam.js").Mask} Mask
 * @typedef {import("../client/edgesam.js").Box} Box
 * @typedef {{x: number, y: number, label: 0 | 1}} SessionPoint
 * @typedef {object} SessionPrompt
 * @property {SessionPoint[]} points
 * @property {Box | null} box
 * @property {Mask | null} given a mask that is the answer already: painted, merged, or found by everything mode
 * @property {Mask | null} base the given mask that later prompts refine; not dropped with the answers of a model
 * @property {Mask | null} refined the mask that the prompt refines: an answer, or `base`
 * @property {SessionPrompt | null} previous the prompt before it
 */

import { isInside } from "./run_lengths.js";

/** @type {SessionPrompt} */
const EMPTY = { points: [], box: null, given: null, base: null, refined: null, previous: null };

/** The prompt with one more point. @param {SessionPrompt | null} prompt @param {SessionPoint} point @param {Mask | null} shown the mask to refine */
export function withPoint(prompt, point, shown) {
  const { points, box, base } = prompt ?? EMPTY;
  return { ...EMPTY, points: [...points, point], box, base, refined: shown, previous: prompt };
}

/** The prompt with another box. @param {SessionPrompt | null} prompt @param {Box} box @returns {SessionPrompt} */
export function withBox(prompt, box) {
  // A mask from another box, or from none, would pull the answer back to that mask.
  return { ...EMPTY, points: prompt?.points ?? [], box, previous: prompt };
}

/**
 * The prompt with other points, or without its box. It refines no answer, since that answer holds what was changed.
 *
 * @param {SessionPrompt} prompt
 * @param {{points?: SessionPoint[], box?: Box | null}} change
 * @returns {SessionPrompt | null} null if nothing is left of the prompt
 */
export function edited(prompt, { points = prompt.points, box = prompt.box }) {
  const { base } = prompt;
  if (points.length > 0 || box) return { ...EMPTY, points, box, base, refined: base, previous: prompt };
  return base && { ...EMPTY, given: base, base, previous: prompt };
}

/**
 * A mask in place of a prompt. Points stay that agree with the mask: they help later refinements.
 *
 * @param {Mask} mask
 * @param {SessionPrompt | null} [previous]
 * @returns {SessionPrompt}
 */
export function givenMask(mask, previous = null) {
  const points = (previous?.points ?? []).filter((point) => isInside(mask, point) === (point.label === 1));
  return { ...EMPTY, points, given: mask, base: mask, previous };
}

/**
 * The prompt by which the model smooths a given mask: the mask alone. With points or a box, the model would draw a mask
 * of its own.
 *
 * @param {SessionPrompt} prompt
 * @returns {SessionPrompt}
 */
export function refining(prompt) {
  return { ...EMPTY, base: prompt.base, refined: prompt.base, previous: prompt };
}

/** A prompt for storage: without the prompts before it. @param {SessionPrompt} prompt @param {boolean} keepsRefined */
export function stored({ points, box, given, base, refined }, keepsRefined) {
  return { points, box, given, base, refined: keepsRefined || refined === base ? refined : null };
}

/** The inverse of `stored`. @param {Omit<SessionPrompt, "previous">} prompt @returns {SessionPrompt} */
export function restored(prompt) {
  return { ...EMPTY, ...prompt };
}
