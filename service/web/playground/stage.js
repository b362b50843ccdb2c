/**
 * Draws the image and the masks on two canvases. The lower one holds the image and changes with zoom and pan only. The
 * upper one holds masks, prompts and crosshair and changes with every click.
 */

import { drawRaster, rasterOfRle } from "../client/masks.js";
import { outlines, pathOf } from "../client/outlines.js";
import { fitted, moved, toImage, toScreen, zoomed } from "./viewport.js";

const MASK_SIDE = 2048; // longer side of a drawn mask, in pixels: sharp on any screen that shows the whole image
const PREVIEW_SIDE = 1024;
const MARGIN = 24;
const TOOLBAR_HEIGHT = 64; // CSS pixels at the bottom that the toolbar covers
const TINT = 112; // of 255
const PREVIEW_TINT = 84;
const PREVIEW_COLOUR = "#ffffff";
const POSITIVE = "#17a765";
const NEGATIVE = "#e5383b";
const MAX_CORNERS = 20_000; // an outline with more is noise, and drawing it would take longer than the click
const SQUARE_SIDE = 10; // CSS pixels; squares of the pattern behind transparent pixels

export class Stage extends EventTarget {
  #lower;
  #upper;
  #image = /** @type {ImageBitmap | null} */ (null);
  #size = { width: 1, height: 1 };
  #view = { scale: 1, x: 0, y: 0 };
  #isFitted = true;
  #isImageStale = true;
  #frame = 0;
  /** @type {WeakMap<object, DrawnMask>} */
  #drawn = new WeakMap();
  #scene = { objects: [], selectedId: 0, preview: null, draft: null, crosshair: null, isCutOut: false };

  /** @param {HTMLCanvasElement} lower @param {HTMLCanvasElement} upper */
  constructor(lower, upper) {
    super();
    this.#lower = lower;
    this.#upper = upper;
    new ResizeObserver(() => this.#resize()).observe(upper);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw({}));
    this.#resize();
  }

  /** @returns {ImageBitmap | null} */
  get image() {
    return this.#image;
  }

  get view() {
    return this.#view;
  }

  /** The view that the user chose by zoom or pan, or null if the whole image is shown. */
  get chosenView() {
    return this.#isFitted ? null : this.#view;
  }

  /** @param {ImageBitmap | null} image @param {import("./viewport.js").View | null} [view] null shows the whole image */
  show(image, view = null) {
    this.#image?.close();
    this.#image = image;
    this.fit();
    if (!image || !view) return;
    this.#isFitted = false;
    this.#move(moved(view, 0, 0, image, this.#size));
  }

  /**
   * Draw with the next frame.
   *
   * @param {Partial<{objects: {id: number, colour: string, prompt: object | null, mask: object | null,
   *   granularityBox: number[] | null}[],
   *   selectedId: number, preview: object | null, draft: number[] | null,
   *   crosshair: {x: number, y: number} | null, isCutOut: boolean}>} scene the members that have changed
   */
  draw(scene) {
    Object.assign(this.#scene, scene);
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#paint();
    });
  }

  fit() {
    this.#isFitted = true;
    if (this.#image) this.#move(this.#fit());
  }

  /** @param {number} factor @param {{x: number, y: number}} [at] on the screen; the middle unless given */
  zoom(factor, at = { x: this.#size.width / 2, y: this.#size.height / 2 }) {
    if (!this.#image) return;
    this.#isFitted = false;
    const view = zoomed(this.#view, factor, at, this.#fit().scale);
    this.#move(moved(view, 0, 0, this.#image, this.#size));
  }

  /** @param {number} dx @param {number} dy CSS pixels */
  pan(dx, dy) {
    if (!this.#image) return;
    this.#isFitted = false;
    this.#move(moved(this.#view, dx, dy, this.#image, this.#size));
  }

  /** The pixel of the image at a screen position, clamped to the image, to a tenth. @param {{x: number, y: number}} at */
  locate(at) {
    const { x, y } = toImage(this.#view, at);
    const { width, height } = this.#image ?? { width: 1, height: 1 };
    const clamped = (value, max) => Math.round(Math.min(max, Math.max(0, value)) * 10) / 10;
    return { x: clamped(x, width), y: clamped(y, height) };
  }

  /** @param {{x: number, y: number}} at on the screen */
  isOnImage(at) {
    if (!this.#image) return false;
    const { x, y } = toImage(this.#view, at);
    return x >= 0 && y >= 0 && x <= this.#image.width && y <= this.#image.height;
  }

  #fit() {
    const area = { width: this.#size.width, height: Math.max(1, this.#size.height - TOOLBAR_HEIGHT) };
    return fitted(this.#image ?? area, area, Math.min(MARGIN, area.width / 24));
  }

  #move(view) {
    this.#view = view;
    this.#isImageStale = true;
    this.draw({});
    this.dispatchEvent(new Event("view"));
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.#upper;
    if (width === 0 || height === 0) return;
    this.#size = { width, height };
    for (const canvas of [this.#lower, this.#upper]) {
      canvas.width = Math.round(width * devicePixelRatio);
      canvas.height = Math.round(height * devicePixelRatio);
    }
    this.#isImageStale = true;
    if (this.#isFitted) this.fit();
    this.#paint(); // at once, since resizing clears a canvas
  }

  #paint() {
    if (this.#isImageStale) this.#paintImage();
    this.#isImageStale = false;
    const context = this.#upper.getContext("2d");
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, this.#size.width, this.#size.height);
    if (!this.#image) return;
    const { objects, selectedId, preview, draft, crosshair, isCutOut } = this.#scene;
    if (isCutOut) this.#paintTransparency(context, objects);
    else this.#paintObjects(context, objects, selectedId, preview);
    if (draft) this.#paintBox(context, draft, "#ffffff");
    if (crosshair) this.#paintCrosshair(context, toScreen(this.#view, crosshair));
  }

  #paintObjects(context, objects, selectedId, preview) {
    for (const { mask, colour } of objects) if (mask) this.#paintMask(context, mask, colour, MASK_SIDE, TINT);
    if (preview) this.#paintMask(context, preview, PREVIEW_COLOUR, PREVIEW_SIDE, PREVIEW_TINT);
    const selected = objects.find(({ id }) => id === selectedId);
    if (!selected?.prompt) return;
    if (selected.granularityBox) this.#paintBox(context, selected.granularityBox, selected.colour);
    this.#paintPrompt(context, selected.prompt, selected.colour);
  }

  #paintImage() {
    const context = this.#lower.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.#lower.width, this.#lower.height);
    if (!this.#image) return;
    this.#useImageCoordinates(context);
    context.imageSmoothingEnabled = this.#view.scale * devicePixelRatio < 3; // at larger scales the user wants to see the pixels
    context.imageSmoothingQuality = "high";
    context.drawImage(this.#image, 0, 0);
  }

  #useImageCoordinates(context, scale = 1) {
    const ratio = devicePixelRatio;
    const { scale: zoom, x, y } = this.#view;
    context.setTransform(ratio * zoom * scale, 0, 0, ratio * zoom * scale, ratio * x, ratio * y);
  }

  #paintTransparency(context, objects) {
    const { scale, x, y } = this.#view;
    const area = [x, y, this.#image.width * scale, this.#image.height * scale];
    context.fillStyle = pattern(context);
    context.fillRect(...area);
    context.globalCompositeOperation = "destination-out";
    for (const { mask } of objects) if (mask) this.#paintTint(context, mask, "#ffffff", MASK_SIDE, 255);
    context.globalCompositeOperation = "source-over";
  }

  #paintMask(context, mask, colour, side, tint) {
    this.#paintTint(context, mask, colour, side, tint);
    const { path, scale } = this.#drawnMask(mask, side);
    this.#useImageCoordinates(context, scale);
    const width = 1 / (this.#view.scale * scale);
    context.lineJoin = "round";
    context.lineWidth = 2.75 * width;
    context.strokeStyle = "rgb(0 0 0 / 35%)";
    context.stroke(path);
    context.lineWidth = 1.4 * width;
    context.strokeStyle = colour;
    context.stroke(path);
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  }

  #paintTint(context, mask, colour, side, tint) {
    const drawn = this.#drawnMask(mask, side);
    this.#useImageCoordinates(context, drawn.scale);
    context.globalAlpha = tint / 255;
    context.drawImage(drawn.tinted(colour), 0, 0);
    context.globalAlpha = 1;
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  }

  #drawnMask(mask, side) {
    let drawn = this.#drawn.get(mask);
    if (!drawn) this.#drawn.set(mask, (drawn = new DrawnMask(mask, this.#image, side)));
    return drawn;
  }

  #paintPrompt(context, { box, points }, colour) {
    if (box) this.#paintBox(context, box, colour);
    for (const point of points) this.#paintPoint(context, toScreen(this.#view, point), point.label === 1);
  }

  #paintBox(context, [x0, y0, x1, y1], colour) {
    const from = toScreen(this.#view, { x: x0, y: y0 });
    const to = toScreen(this.#view, { x: x1, y: y1 });
    context.beginPath();
    context.roundRect(from.x, from.y, to.x - from.x, to.y - from.y, 3);
    context.lineWidth = 3.5;
    context.strokeStyle = "rgb(0 0 0 / 40%)";
    context.stroke();
    context.lineWidth = 1.75;
    context.setLineDash([7, 5]);
    context.strokeStyle = colour;
    context.stroke();
    context.setLineDash([]);
  }

  #paintPoint(context, { x, y }, isPositive) {
    const radius = 8;
    const arm = 4;
    context.beginPath();
    context.arc(x, y, radius + 2, 0, 2 * Math.PI);
    context.fillStyle = "rgb(0 0 0 / 35%)";
    context.fill();
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = isPositive ? POSITIVE : NEGATIVE;
    context.fill();
    context.lineWidth = 2;
    context.strokeStyle = "#ffffff";
    context.stroke();
    context.beginPath();
    context.moveTo(x - arm, y);
    context.lineTo(x + arm, y);
    if (isPositive) {
      context.moveTo(x, y - arm);
      context.lineTo(x, y + arm);
    }
    context.stroke();
  }

  #paintCrosshair(context, { x, y }) {
    for (const [width, colour] of [[4, "rgb(0 0 0 / 55%)"], [2, "#ffffff"]]) {
      context.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + 5 * dx, y + 5 * dy);
        context.lineTo(x + 16 * dx, y + 16 * dy);
      }
      context.lineWidth = Number(width);
      context.strokeStyle = String(colour);
      context.stroke();
    }
  }
}

/** One mask as a raster and an outline, which are drawn at any zoom. */
class DrawnMask {
  #raster;
  #colour = "";
  #canvas = document.createElement("canvas");

  constructor(mask, image, side) {
    const scale = Math.min(1, side / Math.max(image.width, image.height));
    const size = {
      width: Math.max(1, Math.round(image.width * scale)),
      height: Math.max(1, Math.round(image.height * scale)),
    };
    this.#raster = rasterOfRle(mask.rle, size);
    this.scale = image.width / size.width; // pixels of the image per pixel of the raster
    const lines = outlines(this.#raster);
    const corners = lines.reduce((count, line) => count + line.length / 2, 0);
    this.path = new Path2D(corners > MAX_CORNERS ? "" : pathOf(lines));
  }

  tinted(colour) {
    if (this.#colour !== colour) drawRaster(this.#canvas, this.#raster, channels(colour));
    this.#colour = colour;
    return this.#canvas;
  }
}

/** @param {string} colour #rrggbb @returns {[number, number, number]} */
function channels(colour) {
  const value = Number.parseInt(colour.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

function pattern(context) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 2 * SQUARE_SIDE;
  const pen = tile.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  pen.fillStyle = style.getPropertyValue("--square-light");
  pen.fillRect(0, 0, 2 * SQUARE_SIDE, 2 * SQUARE_SIDE);
  pen.fillStyle = style.getPropertyValue("--square-dark");
  pen.fillRect(0, 0, SQUARE_SIDE, SQUARE_SIDE);
  pen.fillRect(SQUARE_SIDE, SQUARE_SIDE, SQUARE_SIDE, SQUARE_SIDE);
  return context.createPattern(tile, "repeat");
}
