/**
 * Cleans masks and adds the box of an earlier mask to negative points alone, as service/sam/cleanup.py and refinement.py
 * do.
 *
 * @typedef {import("../client/edgesam.js").Prompt} Prompt
 * @typedef {import("./letterbox.js").Size} Size
 */

import { FRAME_SIZE, MASK_SIZE, TAPS, clippedBox, inputSize, upsampling } from "./letterbox.js";
import { LEAST_LOGIT, filterPieces } from "./pieces.js";

const CELL = FRAME_SIZE / MASK_SIZE; // side of a logit in the frame
const BOX_MARGIN = 0.05; // share of the box's sides
const REPAIR_RADIUS = 2; // cells
const LEAST_RADIUS = 0.5;
const MOST_REPAIRS = 3;

/** Cleans the masks of one prompt. */
export class MaskCleaner {
  #size;
  #box;
  #cells;
  #points;

  /** @param {Prompt} prompt @param {Size} size size of the image */
  constructor({ points = [], box }, size) {
    this.#size = size;
    this.#box = box;
    this.#cells = usedCells(size);
    const input = inputSize(size);
    const [rows, columns] = [upsampling(size.height, input.height), upsampling(size.width, input.width)];
    this.#points = points.map((point) => pointOf(point, size, rows, columns));
  }

  /** Whether the mask of these logits agrees with all points. @param {Float32Array} logits 256×256 @returns {boolean} */
  agrees(logits) {
    return this.#points.every((point) => isObeyed(logits, point));
  }

  /** The pixels at the points, for the cleanup of the enlarged mask. @returns {import("./run_pieces.js").MarkedPixels} */
  get markedPixels() {
    const pixels = (kind) => this.#points.filter(({ isPositive }) => isPositive === kind).map(({ pixel }) => pixel);
    return { positive: pixels(true), negative: pixels(false) };
  }

  /** The logits of a mask without islands, small holes and disobeyed points. @param {Float32Array} logits 256×256 */
  clean(logits) {
    const cleaned = Float32Array.from(logits);
    if (this.#box) this.#clip(cleaned, clippedBox(this.#box, this.#size));
    filterPieces(cleaned, this.#cells, this.#marked(cleaned));
    for (let i = 0; i < MOST_REPAIRS && !this.agrees(cleaned); i++) {
      this.#repair(cleaned);
      filterPieces(cleaned, this.#cells, this.#marked(cleaned));
    }
    return cleaned;
  }

  /** Take out of the mask what lies beyond the box, the positive points and the margin. */
  #clip(logits, [x0, y0, x1, y1]) {
    const held = [{ x: x0, y: y0 }, { x: x1, y: y1 }, ...this.#points.filter(({ isPositive }) => isPositive)];
    const [xs, ys] = [held.map(({ x }) => x), held.map(({ y }) => y)];
    const [marginX, marginY] = [(x1 - x0) * BOX_MARGIN, (y1 - y0) * BOX_MARGIN];
    const first = toCells({ x: Math.min(...xs) - marginX, y: Math.min(...ys) - marginY }, this.#size);
    const last = toCells({ x: Math.max(...xs) + marginX, y: Math.max(...ys) + marginY }, this.#size);
    for (let y = 0, cell = 0; y < MASK_SIZE; y++) {
      const isRow = first.y - 1 <= y && y <= last.y + 1;
      for (let x = 0; x < MASK_SIZE; x++, cell++) {
        if (isRow && first.x - 1 <= x && x <= last.x + 1) continue;
        if (logits[cell] > 0) logits[cell] = -Math.max(logits[cell], LEAST_LOGIT);
      }
    }
  }

  /** The cells that agree with their point, and those of pieces under disobeyed negative points. */
  #marked(logits) {
    const [held, rejected] = [[], []];
    for (const point of this.#points) {
      const isRejected = !point.isPositive && !isObeyed(logits, point);
      for (const { cell, weight } of point.taps) {
        if (weight === 0) continue;
        const isInside = logits[cell] > 0;
        if (isInside === point.isPositive) held.push(cell);
        if (isInside && isRejected) rejected.push(cell);
      }
    }
    return { held, rejected };
  }

  /** Raise or lower the logits around each disobeyed point until its pixel changes sides. */
  #repair(logits) {
    for (const point of this.#points) {
      if (isObeyed(logits, point)) continue;
      const { centre, isPositive } = point;
      const distances = this.#points
        .filter((other) => other.isPositive !== isPositive)
        .map((other) => Math.hypot(other.centre.x - centre.x, other.centre.y - centre.y));
      const radius = Math.max(Math.min(3 * REPAIR_RADIUS, ...distances) / 3, LEAST_RADIUS);
      const [columns, rows] = [centre.x, centre.y].map((at) =>
        Float64Array.from({ length: MASK_SIZE }, (_, i) => Math.exp(-((i - at) ** 2) / (2 * radius ** 2))),
      );
      const change = new Float32Array(MASK_SIZE ** 2);
      for (let y = 0, cell = 0; y < MASK_SIZE; y++) {
        for (let x = 0; x < MASK_SIZE; x++, cell++) change[cell] = rows[y] * columns[x];
      }
      const amount = Math.fround((Math.abs(valueAt(logits, point)) + 0.1) / valueAt(change, point));
      for (let cell = 0; cell < change.length; cell++) logits[cell] += isPositive ? amount * change[cell] : -amount * change[cell];
    }
  }
}

/**
 * A prompt of negative points alone on an earlier mask with the box of that mask; other prompts as they are.
 *
 * @param {Prompt} prompt
 * @param {Float32Array | null} maskLogits logits of the earlier mask, 256×256
 * @param {Size} size size of the image
 * @returns {Prompt}
 */
export function withBoxOfMask(prompt, maskLogits, size) {
  const { points = [], box } = prompt;
  if (!maskLogits || box || points.length === 0 || points.some(({ label = 1 }) => label === 1)) return prompt;
  const logits = Float32Array.from(maskLogits);
  const { rows, columns } = usedCells(size);
  filterPieces(logits, { rows, columns }, { held: [], rejected: [] });
  let [x0, y0, x1, y1] = [columns, rows, -1, -1];
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      if (!(logits[y * MASK_SIZE + x] > 0)) continue;
      [x0, y0, x1, y1] = [Math.min(x0, x), Math.min(y0, y), Math.max(x1, x), Math.max(y1, y)];
    }
  }
  if (x1 < 0) return prompt;
  const { width, height } = size;
  const input = inputSize(size);
  const pixel = (edge, length, inputLength) => Math.min(Math.max(edge / (inputLength / length / CELL), 0), length);
  const [left, right] = [x0, x1 + 1].map((edge) => pixel(edge, width, input.width));
  const [top, bottom] = [y0, y1 + 1].map((edge) => pixel(edge, height, input.height));
  return { ...prompt, box: [left, top, right, bottom] };
}

/** The rows and columns of the logits that lie in the image. The others are padding. @param {Size} size */
function usedCells(size) {
  const input = inputSize(size);
  const [rows, columns] = [input.height, input.width].map((length) =>
    Math.min(Math.trunc((length - 0.5) / CELL - 0.5) + 2, MASK_SIZE),
  );
  return { rows, columns };
}

/** A point with the logits that decide its pixel, their weights, and the pixel's centre in cells. */
function pointOf({ x, y, label = 1 }, size, rows, columns) {
  const [column, row] = [Math.min(Math.floor(x), size.width - 1), Math.min(Math.floor(y), size.height - 1)];
  const taps = [];
  for (let i = 0; i < TAPS; i++) {
    for (let j = 0; j < TAPS; j++) {
      const cell = (rows.first[row] + i) * MASK_SIZE + columns.first[column] + j;
      taps.push({ cell, weight: rows.weights[TAPS * row + i] * columns.weights[TAPS * column + j] });
    }
  }
  const pixel = column * size.height + row; // pixels are counted column after column
  return { x, y, pixel, isPositive: label === 1, taps, centre: toCells({ x: column + 0.5, y: row + 0.5 }, size) };
}

function valueAt(logits, { taps }) {
  return taps.reduce((sum, { cell, weight }) => sum + logits[cell] * weight, 0);
}

function isObeyed(logits, point) {
  return valueAt(logits, point) > 0 === point.isPositive;
}

/** Pixels of the image as indices of logits, whose centres are whole numbers. */
function toCells({ x, y }, size) {
  const input = inputSize(size);
  return { x: x * (input.width / size.width / CELL) - 0.5, y: y * (input.height / size.height / CELL) - 0.5 };
}
