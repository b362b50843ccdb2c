/**
 * Masks as COCO's run lengths, made of the decoder's logits: a pixel belongs to the mask where its logit is above 0.
 *
 * The picture is walked column by column. A pixel depends on three rows of logits: where all of them have one sign, its
 * sign is known, and only the seam of the object is computed.
 */

import { MASK_SIZE, TAPS, inputSize, upsampling } from "./letterbox.js";

/** Makes masks of one picture. */
export class MaskWriter {
  #size;
  #rows;
  #columns;
  /** Stretches of a column whose pixels depend on the same logits: first logit, first pixel, pixel behind, and so on. */
  #bands;

  /** @param {import("./letterbox.js").Size} size of the picture */
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
   * @returns {{rle: import("../client/masks.js").Rle, area: number, box: [number, number, number, number]}} the box exclusive
   *   at its end, zeros when the mask is empty
   */
  write(logits) {
    const { width, height } = this.#size;
    const walk = new Walk(height);
    const column = new Float32Array(MASK_SIZE);
    for (let x = 0; x < width; x++) {
      if (this.#stretch(logits, x, column)) this.#walk(column, x, walk);
    }
    return { rle: { size: [height, width], counts: encodeCounts(walk.runs(width * height)) }, ...walk.extent() };
  }

  /** One column of the picture, still in rows of logits; whether any of them is positive. */
  #stretch(logits, x, column) {
    const first = this.#columns.first[x];
    const [a, b, c] = this.#columns.weights.subarray(TAPS * x, TAPS * x + TAPS);
    let isAnyInside = false;
    for (let row = 0, at = first; row < MASK_SIZE; row++, at += MASK_SIZE) {
      const value = a * logits[at] + b * logits[at + 1] + c * logits[at + 2];
      column[row] = value;
      if (value > 0) isAnyInside = true;
    }
    return isAnyInside;
  }

  /** Down one column of the picture, whose logits are in `column`. */
  #walk(column, x, walk) {
    const { weights } = this.#rows;
    const bands = this.#bands;
    let from = -1; // where the run began that we are in
    for (let i = 0; i < bands.length; i += 3) {
      const [row, start, end] = [bands[i], bands[i + 1], bands[i + 2]];
      const [a, b, c] = [column[row], column[row + 1], column[row + 2]];
      if (a > 0 && b > 0 && c > 0) {
        if (from < 0) from = start;
      } else if (a > 0 || b > 0 || c > 0) {
        for (let y = start, at = TAPS * start; y < end; y++, at += TAPS) {
          const isInside = weights[at] * a + weights[at + 1] * b + weights[at + 2] * c > 0;
          if (isInside === from >= 0) continue;
          if (!isInside) walk.add(x, from, y);
          from = isInside ? y : -1;
        }
      } else if (from >= 0) {
        walk.add(x, from, start);
        from = -1;
      }
    }
    if (from >= 0) walk.add(x, from, this.#size.height);
  }
}

/** The pixels of a mask as they are come by, column after column. */
class Walk {
  #height;
  /** First pixels of the runs, and those behind their last, alternating. */
  #turns = /** @type {number[]} */ ([]);
  #area = 0;
  #box = [Infinity, Infinity, 0, 0];

  /** @param {number} height of the picture */
  constructor(height) {
    this.#height = height;
  }

  /** Rows from `start` to before `end` of column `x`. */
  add(x, start, end) {
    const place = x * this.#height;
    if (this.#turns.at(-1) === place + start) this.#turns[this.#turns.length - 1] = place + end;
    else this.#turns.push(place + start, place + end);
    this.#area += end - start;
    const [x0, y0, , y1] = this.#box;
    this.#box = [Math.min(x0, x), Math.min(y0, start), x + 1, Math.max(y1, end)];
  }

  /** Lengths outside, inside, outside, …; together the whole picture. @param {number} count its pixels */
  runs(count) {
    const ends = this.#turns.at(-1) === count ? this.#turns : [...this.#turns, count];
    return ends.map((end, i) => end - (i ? ends[i - 1] : 0));
  }

  extent() {
    const box = /** @type {[number, number, number, number]} */ (this.#area ? this.#box : [0, 0, 0, 0]);
    return { area: this.#area, box };
  }
}

/** The other way round of `decodeCounts`. @param {number[]} runs @returns {string} */
export function encodeCounts(runs) {
  const symbols = [];
  runs.forEach((run, i) => {
    let value = i > 2 ? run - runs[i - 2] : run;
    for (;;) {
      const digit = value & 31;
      value >>= 5;
      const isLast = digit & 16 ? value === -1 : value === 0;
      symbols.push((isLast ? digit : digit | 32) + 48);
      if (isLast) break;
    }
  });
  return new TextDecoder().decode(Uint8Array.from(symbols));
}
