/**
 * One mask as it is drawn: the pixels inside its box and its outline, as fine as the zoom shows them.
 *
 * @typedef {import("../client/edgesam.js").Mask} Mask
 * @typedef {import("../client/masks.js").Raster} Raster
 */

import { decodeCounts, drawRaster } from "../client/masks.js";
import { outlines, pathOf } from "../client/outlines.js";
import { channels } from "./colours.js";

const MAX_PIXELS = 4e6; // pixels of a drawn mask: sharp on any screen, and 16 MB on a canvas
const MAX_CORNERS = 20_000; // an outline with more is noise, and drawing it would take longer than the click

export class DrawnMask {
  #mask;
  #level = NaN;
  #colour = "";
  #canvas = document.createElement("canvas");
  /** @type {Raster} */
  #raster = { width: 0, height: 0, data: new Uint8Array() };
  #outline = /** @type {Path2D | null} */ (null);

  /** @param {Mask} mask with a box that is not empty */
  constructor(mask) {
    this.#mask = mask;
    /** Where the drawn pixels lie: pixel of the image at their corner, and pixels of the image per drawn pixel. */
    this.x = 0;
    this.y = 0;
    this.step = 1;
  }

  /** Prepare for a zoom. @param {number} scale pixels of the screen per pixel of the image */
  prepare(scale) {
    const [x0, y0, x1, y1] = this.#mask.box;
    const least = Math.log2(Math.sqrt(((x1 - x0) * (y1 - y0)) / MAX_PIXELS));
    const level = Math.max(0, Math.floor(-Math.log2(scale)), Math.ceil(least));
    if (level === this.#level) return;
    this.#level = level;
    this.step = 2 ** level;
    this.x = Math.floor(x0 / this.step) * this.step;
    this.y = Math.floor(y0 / this.step) * this.step;
    this.#raster = rasterOfBox(this.#mask, this.step);
    this.#outline = null;
    this.#colour = "";
  }

  /** The pixels inside the mask on a canvas. @param {string} colour #rrggbb */
  tinted(colour) {
    if (this.#colour !== colour) drawRaster(this.#canvas, this.#raster, channels(colour));
    this.#colour = colour;
    return this.#canvas;
  }

  /** The border of the mask, in drawn pixels; empty for noise. */
  get outline() {
    if (this.#outline === null) {
      const lines = outlines(this.#raster);
      const corners = lines.reduce((count, line) => count + line.length / 2, 0);
      this.#outline = new Path2D(corners > MAX_CORNERS ? "" : pathOf(lines));
    }
    return this.#outline;
  }
}

/**
 * The pixels of a mask inside its box, of which every `step`-th is taken in both directions.
 *
 * @param {Mask} mask
 * @param {number} step
 * @returns {Raster} its first pixel covers the pixels of the image from the last multiples of `step` before the box
 */
export function rasterOfBox({ rle, box: [x0, y0, x1, y1] }, step) {
  const [imageHeight, imageWidth] = rle.size;
  const [left, top] = [Math.floor(x0 / step), Math.floor(y0 / step)];
  const [width, height] = [Math.ceil(x1 / step) - left, Math.ceil(y1 / step) - top];
  const data = new Uint8Array(width * height);
  const transitions = transitionsWithGaps(rle.counts);
  const middle = step >> 1;
  for (let column = 0, run = 0; column < width; column++) {
    const first = Math.min(imageWidth - 1, (left + column) * step + middle) * imageHeight;
    const last = first + imageHeight;
    while (run < transitions.length && transitions[run] <= first) run++;
    for (let i = run, from = first; from < last && i < transitions.length; from = transitions[i++]) {
      if (i % 2 === 0) continue;
      const start = Math.max(0, rowFrom(from - first, step, middle) - top);
      const end = Math.min(height, rowFrom(Math.min(transitions[i], last) - first, step, middle) - top);
      for (let at = start * width + column; at < end * width; at += width) data[at] = 1;
    }
  }
  return { width, height, data };
}

/** The first drawn row whose middle pixel is at or after a row of the image. */
function rowFrom(row, step, middle) {
  return Math.ceil((row - middle) / step);
}

/** Ends of the runs, outside and inside alternating. */
function transitionsWithGaps(counts) {
  let end = 0;
  return decodeCounts(counts).map((run) => (end += run));
}
