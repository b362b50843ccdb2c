/**
 * The picture with what was found on it, drawn on two canvases: below what changes with zoom and pan only, above what
 * changes with every click.
 */

import { drawRaster, rasterOfRle } from "../client/masks.js";
import { outlines, pathOf } from "./outlines.js";
import { fitted, moved, toPicture, toScreen, zoomed } from "./viewport.js";

const MASK_SIDE = 2048; // pixels of a drawn mask: sharp beyond what a screen shows of the whole picture
const GLIMPSE_SIDE = 1024;
const MARGIN = 24;
const BOTTOM_ROOM = 64; // the toolbar floats there
const TINT = 112; // of 255
const GLIMPSE_TINT = 84;
const GLIMPSE_COLOUR = "#ffffff";
const POSITIVE = "#17a765";
const NEGATIVE = "#e5383b";
const MOST_CORNERS = 20_000; // an outline of more is noise, and would take the browser longer than the click took
const SQUARE = 10; // of the pattern that stands for transparency

export class Stage extends EventTarget {
  #lower;
  #upper;
  #picture = /** @type {ImageBitmap | null} */ (null);
  #size = { width: 1, height: 1 };
  #view = { scale: 1, x: 0, y: 0 };
  #isFitted = true;
  #isPictureStale = true;
  #frame = 0;
  /** @type {WeakMap<object, Drawn>} */
  #drawn = new WeakMap();
  #scene = { objects: [], selectedId: 0, glimpse: null, draft: null, crosshair: null, isCutOut: false };

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
  get picture() {
    return this.#picture;
  }

  get view() {
    return this.#view;
  }

  /** @param {ImageBitmap | null} picture */
  show(picture) {
    this.#picture?.close();
    this.#picture = picture;
    this.fit();
  }

  /**
   * Draw with the next frame.
   *
   * @param {Partial<{objects: {id: number, colour: string, prompt: object | null, mask: object | null,
   *   grownBox: number[] | null}[],
   *   selectedId: number, glimpse: object | null, draft: number[] | null,
   *   crosshair: {x: number, y: number} | null, isCutOut: boolean}>} scene what has changed of it
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
    if (this.#picture) this.#move(this.#fit());
  }

  /** @param {number} factor @param {{x: number, y: number}} [at] on the screen; the middle unless given */
  zoom(factor, at = { x: this.#size.width / 2, y: this.#size.height / 2 }) {
    if (!this.#picture) return;
    this.#isFitted = false;
    const view = zoomed(this.#view, factor, at, this.#fit().scale);
    this.#move(moved(view, 0, 0, this.#picture, this.#size));
  }

  /** @param {number} dx @param {number} dy CSS pixels */
  pan(dx, dy) {
    if (!this.#picture) return;
    this.#isFitted = false;
    this.#move(moved(this.#view, dx, dy, this.#picture, this.#size));
  }

  /** A place on the picture, inside it, to a tenth of a pixel. @param {{x: number, y: number}} at on the screen */
  locate(at) {
    const { x, y } = toPicture(this.#view, at);
    const { width, height } = this.#picture ?? { width: 1, height: 1 };
    const inside = (value, most) => Math.round(Math.min(most, Math.max(0, value)) * 10) / 10;
    return { x: inside(x, width), y: inside(y, height) };
  }

  /** @param {{x: number, y: number}} at on the screen */
  isOnPicture(at) {
    if (!this.#picture) return false;
    const { x, y } = toPicture(this.#view, at);
    return x >= 0 && y >= 0 && x <= this.#picture.width && y <= this.#picture.height;
  }

  #fit() {
    const room = { width: this.#size.width, height: Math.max(1, this.#size.height - BOTTOM_ROOM) };
    return fitted(this.#picture ?? room, room, Math.min(MARGIN, room.width / 24));
  }

  #move(view) {
    this.#view = view;
    this.#isPictureStale = true;
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
    this.#isPictureStale = true;
    if (this.#isFitted) this.fit();
    this.#paint(); // at once: a canvas that was resized is empty
  }

  #paint() {
    if (this.#isPictureStale) this.#paintPicture();
    this.#isPictureStale = false;
    const context = this.#upper.getContext("2d");
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, this.#size.width, this.#size.height);
    if (!this.#picture) return;
    const { objects, selectedId, glimpse, draft, crosshair, isCutOut } = this.#scene;
    if (isCutOut) this.#paintTransparency(context, objects);
    else this.#paintObjects(context, objects, selectedId, glimpse);
    if (draft) this.#paintBox(context, draft, "#ffffff");
    if (crosshair) this.#paintCrosshair(context, toScreen(this.#view, crosshair));
  }

  #paintObjects(context, objects, selectedId, glimpse) {
    for (const { mask, colour } of objects) if (mask) this.#paintMask(context, mask, colour, MASK_SIDE, TINT);
    if (glimpse) this.#paintMask(context, glimpse, GLIMPSE_COLOUR, GLIMPSE_SIDE, GLIMPSE_TINT);
    const selected = objects.find(({ id }) => id === selectedId);
    if (!selected?.prompt) return;
    if (selected.grownBox) this.#paintBox(context, selected.grownBox, selected.colour);
    this.#paintPrompt(context, selected.prompt, selected.colour);
  }

  #paintPicture() {
    const context = this.#lower.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.#lower.width, this.#lower.height);
    if (!this.#picture) return;
    this.#onPicture(context);
    context.imageSmoothingEnabled = this.#view.scale * devicePixelRatio < 3; // closer, one wants to see the pixels
    context.imageSmoothingQuality = "high";
    context.drawImage(this.#picture, 0, 0);
  }

  #onPicture(context, scale = 1) {
    const ratio = devicePixelRatio;
    const { scale: zoom, x, y } = this.#view;
    context.setTransform(ratio * zoom * scale, 0, 0, ratio * zoom * scale, ratio * x, ratio * y);
  }

  #paintTransparency(context, objects) {
    const { scale, x, y } = this.#view;
    const area = [x, y, this.#picture.width * scale, this.#picture.height * scale];
    context.fillStyle = pattern(context);
    context.fillRect(...area);
    context.globalCompositeOperation = "destination-out";
    for (const { mask } of objects) if (mask) this.#paintTint(context, mask, "#ffffff", MASK_SIDE, 255);
    context.globalCompositeOperation = "source-over";
  }

  #paintMask(context, mask, colour, side, tint) {
    this.#paintTint(context, mask, colour, side, tint);
    const { path, scale } = this.#drawnMask(mask, side);
    this.#onPicture(context, scale);
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
    this.#onPicture(context, drawn.scale);
    context.globalAlpha = tint / 255;
    context.drawImage(drawn.tinted(colour), 0, 0);
    context.globalAlpha = 1;
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  }

  #drawnMask(mask, side) {
    let drawn = this.#drawn.get(mask);
    if (!drawn) this.#drawn.set(mask, (drawn = new Drawn(mask, this.#picture, side)));
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

/** One mask, ready to be drawn at any zoom. */
class Drawn {
  #raster;
  #colour = "";
  #canvas = document.createElement("canvas");

  constructor(mask, picture, side) {
    const part = Math.min(1, side / Math.max(picture.width, picture.height));
    const size = {
      width: Math.max(1, Math.round(picture.width * part)),
      height: Math.max(1, Math.round(picture.height * part)),
    };
    this.#raster = rasterOfRle(mask.rle, size);
    this.scale = picture.width / size.width; // pixels of the picture in one of the raster
    const lines = outlines(this.#raster);
    const corners = lines.reduce((count, line) => count + line.length / 2, 0);
    this.path = new Path2D(corners > MOST_CORNERS ? "" : pathOf(lines));
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
  tile.width = tile.height = 2 * SQUARE;
  const pen = tile.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  pen.fillStyle = style.getPropertyValue("--square-light");
  pen.fillRect(0, 0, 2 * SQUARE, 2 * SQUARE);
  pen.fillStyle = style.getPropertyValue("--square-dark");
  pen.fillRect(0, 0, SQUARE, SQUARE);
  pen.fillRect(SQUARE, SQUARE, SQUARE, SQUARE);
  return context.createPattern(tile, "repeat");
}
