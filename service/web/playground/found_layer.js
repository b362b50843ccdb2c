/** Draws all masks of an everything result on one canvas, which is drawn over the image at any zoom. */

import { drawRaster } from "../client/masks.js";
import { outlines, pathOf } from "../client/outlines.js";
import { COLOURS, channels } from "./colours.js";
import { rasterOfBox } from "./drawn_mask.js";

const SIDE = 1400; // longest side of the canvas, in pixels: fine enough to tell masks apart, and quick to draw
const TINT = 0.4;

export class FoundLayer {
  #context;
  #stamp = document.createElement("canvas");
  #count = 0;

  /** @param {{width: number, height: number}} image pixels */
  constructor({ width, height }) {
    /** Pixels of the image per pixel of the canvas, a power of two. */
    this.step = 2 ** Math.max(0, Math.ceil(Math.log2(Math.max(width, height) / SIDE)));
    this.canvas = document.createElement("canvas");
    this.canvas.width = Math.ceil(width / this.step);
    this.canvas.height = Math.ceil(height / this.step);
    this.#context = this.canvas.getContext("2d");
  }

  /** Draw a mask over those that are there. @param {import("../client/edgesam.js").Mask} mask */
  add(mask) {
    const [x0, y0, x1, y1] = mask.box;
    if (x1 <= x0 || y1 <= y0) return;
    const colour = COLOURS[this.#count++ % COLOURS.length];
    const raster = rasterOfBox(mask, this.step);
    const context = this.#context;
    context.setTransform(1, 0, 0, 1, Math.floor(x0 / this.step), Math.floor(y0 / this.step));
    context.globalAlpha = TINT;
    context.drawImage(drawRaster(this.#stamp, raster, channels(colour)), 0, 0);
    context.globalAlpha = 1;
    context.strokeStyle = colour;
    context.stroke(new Path2D(pathOf(outlines(raster))));
  }

  /** Draw these masks in place of those that are there, large ones first. @param {import("../client/edgesam.js").Mask[]} masks */
  replace(masks) {
    this.#context.setTransform(1, 0, 0, 1, 0, 0);
    this.#context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.#count = 0;
    for (const mask of [...masks].sort((a, b) => b.area - a.area)) this.add(mask);
  }
}
