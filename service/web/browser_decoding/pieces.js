/**
 * Drops small pieces of a mask and fills its small holes, on the decoder's logits, as service/sam/mask_pieces.py does.
 *
 * Cells that share a side belong to one piece, or to one hole.
 */

import { MASK_SIZE } from "./letterbox.js";

export const SMALL_SHARE = 0.1; // of the largest piece's area
const REJECTED_SHARE = 0.25;
export const LEAST_LOGIT = Math.fround(0.1); // least absolute value of a logit whose sign is changed

/**
 * Change the signs of logits in place.
 *
 * @param {Float32Array} logits 256×256, row by row
 * @param {{rows: number, columns: number}} cells the part of the logits that lies in the image
 * @param {{held: number[], rejected: number[]}} marked cells at points: a piece or hole with a cell of `held` stays;
 *   another piece with a cell of `rejected` is dropped up to a larger area
 */
export function filterPieces(logits, cells, { held, rejected }) {
  const pieces = findPieces(logits, cells, true);
  const largest = pieces.areas.reduce((most, area) => Math.max(most, area), 0);
  const isDropped = pieces.areas.map((area) => Number(area < SMALL_SHARE * largest));
  for (const cell of rejected) {
    const label = pieces.labels[cell];
    if (label >= 0) isDropped[label] = Number(pieces.areas[label] < REJECTED_SHARE * largest);
  }
  change(logits, pieces.labels, held, isDropped, -1);

  const holes = findPieces(logits, cells, false);
  const isFilled = holes.areas.map((area, i) => Number(area < SMALL_SHARE * largest && !holes.isAtBorder[i]));
  change(logits, holes.labels, held, isFilled, 1);
}

/** The label of each cell, -1 on the other side, and the area of each label. */
function findPieces(logits, { rows, columns }, isInside) {
  const labels = new Int32Array(MASK_SIZE ** 2).fill(-1);
  const areas = [];
  const isAtBorder = [];
  const stack = [];
  const visit = (cell) => {
    if (labels[cell] >= 0 || logits[cell] > 0 !== isInside) return;
    labels[cell] = areas.length;
    stack.push(cell);
  };
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      visit(row * MASK_SIZE + column);
      if (stack.length === 0) continue;
      let [area, isOpen] = [0, false];
      while (stack.length) {
        const cell = stack.pop();
        const [x, y] = [cell % MASK_SIZE, Math.floor(cell / MASK_SIZE)];
        area++;
        if (x === 0 || y === 0 || x === columns - 1 || y === rows - 1) isOpen = true;
        if (x > 0) visit(cell - 1);
        if (x < columns - 1) visit(cell + 1);
        if (y > 0) visit(cell - MASK_SIZE);
        if (y < rows - 1) visit(cell + MASK_SIZE);
      }
      areas.push(area);
      isAtBorder.push(isOpen);
    }
  }
  return { labels, areas, isAtBorder };
}

/** Move the cells of the chosen labels to the other side, without those that hold a cell of `held`. */
function change(logits, labels, held, isChosen, sign) {
  for (const cell of held) if (labels[cell] >= 0) isChosen[labels[cell]] = 0;
  for (let cell = 0; cell < labels.length; cell++) {
    if (labels[cell] >= 0 && isChosen[labels[cell]]) logits[cell] = sign * Math.max(Math.abs(logits[cell]), LEAST_LOGIT);
  }
}
