/**
 * Masks as sorted transitions: first pixel and end pixel of each run inside, counted column after column.
 *
 * Masks of 52 megapixels have some thousand transitions, so these functions need little time and memory.
 *
 * @typedef {import("../client/edgesam.js").Mask} Mask
 * @typedef {import("../client/masks.js").Rle} Rle
 */

import { decodeCounts, encodeCounts } from "../client/masks.js";

/** @param {Rle} rle @returns {number[]} first pixel and end pixel of each run, alternating */
export function transitionsOf(rle) {
  const transitions = [];
  let end = 0;
  decodeCounts(rle.counts).forEach((run, i) => {
    const start = end;
    end += run;
    if (i % 2 === 1 && run > 0) transitions.push(start, end);
  });
  return transitions;
}

/**
 * A mask that the user gave. Its scores are 1, as no model rates it.
 *
 * @param {number[]} transitions
 * @param {[height: number, width: number]} size of the image
 * @returns {Mask}
 */
export function maskOfTransitions(transitions, size) {
  const [height, width] = size;
  const runs = [];
  let [end, area] = [0, 0];
  let [x0, y0, x1, y1] = [width, height, 0, 0];
  for (let i = 0; i < transitions.length; i += 2) {
    const [start, next] = [transitions[i], transitions[i + 1]];
    runs.push(start - end, next - start);
    area += next - start;
    end = next;
    const [left, right] = [Math.floor(start / height), Math.floor((next - 1) / height)];
    x0 = Math.min(x0, left);
    x1 = Math.max(x1, right + 1);
    y0 = Math.min(y0, left === right ? start % height : 0);
    y1 = Math.max(y1, left === right ? ((next - 1) % height) + 1 : height);
  }
  if (end < width * height) runs.push(width * height - end);
  return {
    score: 1,
    stability: 1,
    predicted_iou: 1,
    area,
    box: area ? [x0, y0, x1, y1] : [0, 0, 0, 0],
    mask_id: "",
    rle: { size, counts: encodeCounts(runs) },
  };
}

/** The pixels that are in any of the masks of one image. @param {Mask[]} masks at least one @returns {Mask} */
export function unionOf(masks) {
  const transitions = masks.map(({ rle }) => transitionsOf(rle)).reduce(joined);
  return maskOfTransitions(transitions, masks[0].rle.size);
}

/** Whether a position lies in a mask. @param {Mask} mask @param {{x: number, y: number}} at pixels of the image */
export function isInside({ rle }, { x, y }) {
  const [height, width] = rle.size;
  const column = Math.min(width - 1, Math.floor(x));
  return isPixelInside(transitionsOf(rle), column * height + Math.min(height - 1, Math.floor(y)));
}

/** Whether a pixel lies in a mask. @param {ArrayLike<number>} transitions @param {number} pixel counted column after column */
export function isPixelInside(transitions, pixel) {
  let [low, high] = [0, transitions.length]; // find the number of transitions up to the pixel
  while (low < high) {
    const middle = (low + high) >> 1;
    if (transitions[middle] <= pixel) low = middle + 1;
    else high = middle;
  }
  return low % 2 === 1;
}

/** The pixels in either of two masks. @param {number[]} ours @param {number[]} theirs @returns {number[]} */
export function joined(ours, theirs) {
  const found = [];
  for (let i = 0, j = 0; i < ours.length || j < theirs.length; ) {
    const isOurs = j >= theirs.length || ours[i] <= theirs[j];
    const [start, end] = isOurs ? [ours[i], ours[i + 1]] : [theirs[j], theirs[j + 1]];
    if (isOurs) i += 2;
    else j += 2;
    if (found.length > 0 && start <= found[found.length - 1]) found[found.length - 1] = Math.max(found[found.length - 1], end);
    else found.push(start, end);
  }
  return found;
}

/** The pixels in the first mask that are not in the second. @param {number[]} ours @param {number[]} theirs @returns {number[]} */
export function without(ours, theirs) {
  const found = [];
  let j = 0;
  for (let i = 0; i < ours.length; i += 2) {
    let start = ours[i];
    const end = ours[i + 1];
    while (j < theirs.length && theirs[j + 1] <= start) j += 2;
    for (let next = j; next < theirs.length && theirs[next] < end; next += 2) {
      if (theirs[next] > start) found.push(start, theirs[next]);
      start = Math.max(start, theirs[next + 1]);
    }
    if (start < end) found.push(start, end);
  }
  return found;
}
