/**
 * Objects of the page as they are made.
 *
 * @typedef {{id: number, name: string, className: string, colour: string, isVisible: boolean,
 *   prompt: import("./prompts.js").SessionPrompt | null}} SessionObject `className` is empty for an object without a class
 */

import { COLOURS } from "./colours.js";

/** An empty object. @param {number} id @param {SessionObject[]} others objects whose colours it avoids @returns {SessionObject} */
export function newObject(id, others) {
  const free = COLOURS.find((colour) => others.every((other) => other.colour !== colour));
  const colour = free ?? COLOURS[(id - 1) % COLOURS.length];
  return { id, name: `Object ${id}`, className: "", colour, isVisible: true, prompt: null };
}

/** Whether an object is still as `newObject` made it. @param {SessionObject} object */
export function isUnused({ id, name, className, prompt }) {
  return prompt === null && className === "" && name === `Object ${id}`;
}
