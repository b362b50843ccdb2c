/**
 * Drops small pieces of an enlarged mask and fills its small holes, as service/sam/enlarged_pieces.py does.
 *
 * Pixels that share a side belong to one piece, or to one hole. Runs along the columns are joined by union-find.
 *
 * @typedef {{positive: number[], negative: number[]}} MarkedPixels pixels at points, counted column after column: the
 *   piece of a positive one stays, and the hole of a negative one
 * @typedef {{starts: number[], ends: number[]}} Runs runs of pixels, each within one column
 */

import { SMALL_SHARE } from "./pieces.js";

/**
 * The mask without its small pieces and holes.
 *
 * @param {number[]} transitions first pixel and end pixel of each run, alternating, counted column after column; also
 *   the end of the image
 * @param {import("./letterbox.js").Size} size size of the image
 * @param {MarkedPixels} marked
 * @returns {Runs} the mask's runs, cut at the end of each column
 */
export function filterRuns(transitions, { width, height }, { positive, negative }) {
  const count = width * height;
  const inside = findPieces(columnRuns(transitions, height), height, count, positive);
  const least = SMALL_SHARE * inside.areas.reduce((most, area) => Math.max(most, area), 0);
  const kept = joined(inside.runs, (i) => inside.areas[inside.roots[i]] >= least || inside.isHeld[inside.roots[i]]);

  const outside = findPieces(columnRuns(complement(kept, count), height), height, count, negative);
  const isOutside = (root) => outside.areas[root] >= least || outside.isHeld[root] || outside.isAtBorder[root];
  const open = joined(outside.runs, (i) => isOutside(outside.roots[i]));
  return columnRuns(complement(open, count), height);
}

/** Cut runs at the end of each column; empty ones are left out. @param {number[]} transitions @param {number} height @returns {Runs} */
function columnRuns(transitions, height) {
  const [starts, ends] = [[], []];
  for (let i = 0; i < transitions.length; i += 2) {
    for (let start = transitions[i]; start < transitions[i + 1]; ) {
      const end = Math.min(start - (start % height) + height, transitions[i + 1]);
      starts.push(start);
      ends.push(end);
      start = end;
    }
  }
  return { starts, ends };
}

/**
 * The pieces of runs: the root of each run, and what belongs to the piece at its root.
 *
 * @param {Runs} runs
 * @param {number} height height of the image
 * @param {number} count pixels of the image
 * @param {number[]} held pixels whose piece is held
 */
function findPieces(runs, height, count, held) {
  const { starts, ends } = runs;
  const parents = Uint32Array.from(starts, (_, i) => i);
  const rootOf = (i) => {
    while (parents[i] !== i) i = parents[i] = parents[parents[i]];
    return i;
  };
  // Runs of neighbouring columns share a side where one, moved by a column, meets the other.
  for (let left = 0, right = 0; right < starts.length; ) {
    const [start, end] = [starts[left] + height, ends[left] + height];
    if (start < ends[right] && starts[right] < end) parents[rootOf(right)] = rootOf(left);
    if (end < ends[right]) left++;
    else right++;
  }
  const roots = parents.map((_, i) => rootOf(i));
  const areas = new Float64Array(starts.length);
  const isAtBorder = new Uint8Array(starts.length);
  const isHeld = new Uint8Array(starts.length);
  roots.forEach((root, i) => {
    const [start, end] = [starts[i], ends[i]];
    areas[root] += end - start;
    const isInBorderColumn = start < height || start >= count - height;
    if (isInBorderColumn || start % height === 0 || end % height === 0) isAtBorder[root] = 1;
    if (held.some((pixel) => start <= pixel && pixel < end)) isHeld[root] = 1;
  });
  return { runs, roots, areas, isAtBorder, isHeld };
}

/** The transitions of the chosen runs; runs that meet become one. @param {Runs} runs @param {(i: number) => any} isChosen */
function joined({ starts, ends }, isChosen) {
  const transitions = /** @type {number[]} */ ([]);
  starts.forEach((start, i) => {
    if (!isChosen(i)) return;
    if (transitions.at(-1) === start) transitions[transitions.length - 1] = ends[i];
    else transitions.push(start, ends[i]);
  });
  return transitions;
}

/** The transitions of what lies between runs. @param {number[]} transitions @param {number} count pixels of the image */
function complement(transitions, count) {
  return [0, ...transitions, count]; // the first and the last run may be empty
}
