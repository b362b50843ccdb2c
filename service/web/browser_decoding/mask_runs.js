/**
 * Encodes the decoder's logits as COCO run lengths. A pixel belongs to the mask where its upsampled logit is above 0.
 *
 * The image is scanned column by column. A pixel depends on three rows of logits. Where all three have the same sign, the
 * pixel has that sign too, so only pixels at the edge of the object are computed.
 */

import { encodeCounts } from "../client/masks.js";
import { MASK_SIZE, TAPS, inputSize, upsampling } from "./letterbox.js";
import { filterRuns } from "./run_pieces.js";

/** Encodes masks of one image. */
export class MaskEncoder {
  #size;
  #rows;
  #columns;
  /** Bands of rows that depend on the same logits, three numbers each: first row of logits, first pixel, end pixel. */
  #bands;

  /** @param {import("./letterbox.js").Size} size size of the image */
  constructor(size) {
    const input = inputSize(size);
    this.#size = size;
    this.#rows = upsampling(size.height, input.height);
    this.#columns = upsampling(size.width, input.width);
    const { first } = this.#rows;
    const bands = [];
    for (let y = 0, start = 0; y < size.height; y++) {
      if (y + 1 < size.height && first[y + 1] === first[y]) continue;
      bands.push(first[y], start, y + 1);
      start = y + 1;
    }
    this.#bands = Int32Array.from(bands);
  }

  /**
   * @param {Float32Array} logits 256×256, row by row
   * @param {import("./run_pieces.js").MarkedPixels | null} marked pixels at the points of the prompt, for a mask without
   *   small pieces and holes; null for the mask of the logits as it is
   * @returns {{rle: import("../client/masks.js").Rle, area: number, box: [number, number, number, number]}} `box` is
   *   exclusive at its end, and zeros if the mask is empty
   */
  encode(logits, marked = null) {
    const { width, height } = this.#size;
    const found = this.#scan(logits);
    const runs = marked ? this.#filtered(found, marked) : found;
    return { rle: { size: [height, width], counts: encodeCounts(runs.lengths(width * height)) }, ...runs.extent() };
  }

  #filtered(runs, marked) {
    const { height } = this.#size;
    const { starts, ends } = filterRuns(runs.transitions, this.#size, marked);
    const filtered = new MaskRuns(height);
    starts.forEach((start, i) => {
      const row = start % height;
      filtered.add((start - row) / height, row, row + ends[i] - start);
    });
    return filtered;
  }

  #scan(logits) {
    const { width, height } = this.#size;
    const runs = new MaskRuns(height);
    const column = new Float32Array(MASK_SIZE);
    const { columns, isPositive } = columnsOf(logits);
    for (let x = 0; x < width; x++) {
      const first = this.#columns.first[x];
      // Weights are not negative: where no logit is positive, no pixel is.
      if (!isPositive[first] && !isPositive[first + 1] && !isPositive[first + 2]) continue;
      if (this.#interpolateColumn(columns, x, column)) this.#scanColumn(column, x, runs);
    }
    return runs;
  }

  /** Upsample the logits to column `x` of the image; rows stay those of logits. Returns whether any is positive. */
  #interpolateColumn(columns, x, column) {
    const { first, weights } = this.#columns;
    const [a, b, c] = [weights[TAPS * x], weights[TAPS * x + 1], weights[TAPS * x + 2]];
    let isAnyInside = false;
    for (let row = 0, at = first[x] * MASK_SIZE; row < MASK_SIZE; row++, at++) {
      const value = a * columns[at] + b * columns[at + MASK_SIZE] + c * columns[at + 2 * MASK_SIZE];
      column[row] = value;
      if (value > 0) isAnyInside = true;
    }
    return isAnyInside;
  }

  /** Add the runs of column `x`, whose logits are in `column`. */
  #scanColumn(column, x, runs) {
    const { weights } = this.#rows;
    const bands = this.#bands;
    let from = -1; // first pixel of the current run; -1 outside the mask
    for (let i = 0; i < bands.length; i += 3) {
      const [row, start, end] = [bands[i], bands[i + 1], bands[i + 2]];
      const [a, b, c] = [column[row], column[row + 1], column[row + 2]];
      if (a > 0 && b > 0 && c > 0) {
        if (from < 0) from = start;
      } else if (a > 0 || b > 0 || c > 0) {
        for (let y = start, at = TAPS * start; y < end; y++, at += TAPS) {
          const isInside = weights[at] * a + weights[at + 1] * b + weights[at + 2] * c > 0;
          if (isInside === from >= 0) continue;
          if (!isInside) runs.add(x, from, y);
          from = isInside ? y : -1;
        }
      } else if (from >= 0) {
        runs.add(x, from, start);
        from = -1;
      }
    }
    if (from >= 0) runs.add(x, from, this.#size.height);
  }
}

/** The logits column by column, which is the order of the scan, and whether a column has a positive one. */
function columnsOf(logits) {
  const columns = new Float32Array(MASK_SIZE ** 2);
  const isPositive = new Uint8Array(MASK_SIZE);
  for (let y = 0, at = 0; y < MASK_SIZE; y++) {
    for (let x = 0; x < MASK_SIZE; x++, at++) {
      const value = logits[at];
      columns[x * MASK_SIZE + y] = value;
      if (value > 0) isPositive[x] = 1;
    }
  }
  return { columns, isPositive };
}

/** Collects the runs of a mask, column after column. */
class MaskRuns {
  #height;
  /** First pixel and end pixel of each run, alternating. */
  #transitions = /** @type {number[]} */ ([]);
  #area = 0;
  #box = [Infinity, Infinity, 0, 0];

  /** @param {number} height height of the image, in pixels */
  constructor(height) {
    this.#height = height;
  }

  /** Add the rows from `start` to before `end` of column `x`. */
  add(x, start, end) {
    const offset = x * this.#height;
    if (this.#transitions.at(-1) === offset + start) this.#transitions[this.#transitions.length - 1] = offset + end;
    else this.#transitions.push(offset + start, offset + end);
    this.#area += end - start;
    const [x0, y0, , y1] = this.#box;
    this.#box = [Math.min(x0, x), Math.min(y0, start), x + 1, Math.max(y1, end)];
  }

  /** Run lengths: outside, inside, outside, …; their sum is `count`. @param {number} count pixels of the image */
  lengths(count) {
    const ends = this.#transitions.at(-1) === count ? this.#transitions : [...this.#transitions, count];
    return ends.map((end, i) => end - (i ? ends[i - 1] : 0));
  }

  /** First pixel and end pixel of each run, alternating, also the end of the image. */
  get transitions() {
    return this.#transitions;
  }

  extent() {
    const box = /** @type {[number, number, number, number]} */ (this.#area ? this.#box : [0, 0, 0, 0]);
    return { area: this.#area, box };
  }
}
