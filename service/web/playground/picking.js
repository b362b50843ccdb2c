/** Selecting an object by its mask on the image. */

import { isInside } from "./run_lengths.js";

/**
 * The visible object at a position. Of several, the one with the smallest mask; if that is selected, the next larger one.
 *
 * @param {import("./session.js").Session} session
 * @param {{x: number, y: number}} position pixels of the image
 * @returns {import("./session.js").SessionObject | null}
 */
export function objectAt(session, position) {
  const found = session.objects
    .filter(({ isVisible }) => isVisible)
    .map((object) => ({ object, mask: session.mask(object) }))
    .filter(({ mask }) => mask !== null && isInBox(mask.box, position) && isInside(mask, position))
    .sort((a, b) => a.mask.area - b.mask.area)
    .map(({ object }) => object);
  return found[(found.indexOf(session.selected) + 1) % found.length] ?? null;
}

function isInBox([x0, y0, x1, y1], { x, y }) {
  return x0 <= x && x <= x1 && y0 <= y && y <= y1;
}
