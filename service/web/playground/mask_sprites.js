/**
 * Draws masks as sprites: each mask is drawn once for a zoom, with its tint and its outline, and then only copied.
 *
 * Panning over many masks therefore costs one copy for each. New sprites are made within a time limit for each frame. The
 * others are drawn with a later frame, and until then as they were.
 *
 * @typedef {import("../client/edgesam.js").Mask} Mask
 * @typedef {import("./viewport.js").View} View
 * @typedef {import("./viewport.js").Size} Size
 * @typedef {{colour: string, opacity: number, hasOutline: boolean}} Style `colour` is #rrggbb, `opacity` that of the tint
 * @typedef {{canvas: HTMLCanvasElement, key: string, zoom: number, area: Area}} Sprite
 * @typedef {{left: number, top: number, right: number, bottom: number}} Area device pixels from the image's corner
 */

import { DrawnMask } from "./drawn_mask.js";

const FRAME_MS = 8; // of 16 that a frame has
const MARGIN = 0.5; // of the stage's size: how far sprites reach beyond the view
const PADDING = 3; // device pixels around the mask for its outline

export class MaskSprites {
  /** @type {WeakMap<Mask, {drawn: DrawnMask, sprite: Sprite | null}>} */
  #entries = new WeakMap();
  #deadline = 0;
  #madeCount = 0;
  /** Whether the frame has all masks as they are. */
  isComplete = true;

  /** Begin a frame. */
  begin() {
    this.#deadline = performance.now() + FRAME_MS;
    this.#madeCount = 0;
    this.isComplete = true;
  }

  /** The mask's pixels and its outline for the zoom of a view. @param {Mask} mask @param {View} view */
  drawn(mask, view) {
    const { drawn } = this.#entry(mask);
    drawn.prepare(view.scale * devicePixelRatio);
    return drawn;
  }

  /**
   * Draw a mask, if any of it is in view.
   *
   * @param {CanvasRenderingContext2D} context its transformation is lost
   * @param {View} view
   * @param {Size} stage CSS pixels
   * @param {Mask} mask
   * @param {Style} style
   */
  draw(context, view, stage, mask, style) {
    if (!isInView(view, stage, mask)) {
      const unseen = this.#entries.get(mask);
      if (unseen) unseen.sprite = null; // frees its memory
      return;
    }
    const entry = this.#entry(mask);
    if (!this.#isUsable(entry.sprite, view, stage, mask, style)) this.#renew(entry, view, stage, mask, style);
    if (!entry.sprite) return;
    const { canvas, zoom, area } = entry.sprite;
    const ratio = (view.scale * devicePixelRatio) / zoom;
    // At whole pixels of the screen, so that the copy is exact.
    context.setTransform(ratio, 0, 0, ratio, Math.round(view.x * devicePixelRatio), Math.round(view.y * devicePixelRatio));
    context.drawImage(canvas, area.left, area.top);
  }

  #entry(mask) {
    let entry = this.#entries.get(mask);
    if (!entry) this.#entries.set(mask, (entry = { drawn: new DrawnMask(mask), sprite: null }));
    return entry;
  }

  #isUsable(sprite, view, stage, mask, style) {
    if (sprite?.key !== keyOf(view, style)) return false;
    const seen = areaOf(view, stage, mask, 0);
    const { left, top, right, bottom } = sprite.area;
    return left <= seen.left && top <= seen.top && right >= seen.right && bottom >= seen.bottom;
  }

  /** Make a sprite, unless the frame's time is over. */
  #renew(entry, view, stage, mask, style) {
    if (this.#madeCount > 0 && performance.now() > this.#deadline) {
      this.isComplete = false;
      return;
    }
    this.#madeCount++;
    const zoom = view.scale * devicePixelRatio;
    const area = areaOf(view, stage, mask, MARGIN);
    const canvas = document.createElement("canvas");
    canvas.width = area.right - area.left;
    canvas.height = area.bottom - area.top;
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const drawn = this.drawn(mask, view);
    const step = zoom * drawn.step;
    context.setTransform(step, 0, 0, step, zoom * drawn.x - area.left, zoom * drawn.y - area.top);
    context.globalAlpha = style.opacity;
    context.drawImage(drawn.tinted(style.colour), 0, 0);
    context.globalAlpha = 1;
    if (style.hasOutline) strokeOutline(context, drawn.outline, style.colour, devicePixelRatio / step);
    entry.sprite = { canvas, key: keyOf(view, style), zoom, area };
  }
}

/** Whether any of a mask is in view. @param {View} view @param {Size} stage @param {Mask} mask */
export function isInView({ scale, x, y }, { width, height }, { area, box: [x0, y0, x1, y1] }) {
  return area > 0 && x0 * scale + x < width && y0 * scale + y < height && x1 * scale + x > 0 && y1 * scale + y > 0;
}

/** @param {CanvasRenderingContext2D} context @param {Path2D} outline @param {string} colour @param {number} unit width of a CSS pixel */
function strokeOutline(context, outline, colour, unit) {
  context.lineJoin = "round";
  context.lineWidth = 2.75 * unit;
  context.strokeStyle = "rgb(0 0 0 / 35%)";
  context.stroke(outline);
  context.lineWidth = 1.4 * unit;
  context.strokeStyle = colour;
  context.stroke(outline);
}

function keyOf(view, { colour, opacity, hasOutline }) {
  return `${view.scale * devicePixelRatio} ${colour} ${opacity} ${hasOutline}`;
}

/** The part of a mask that is in view or in the margin around it. @returns {Area} */
function areaOf(view, stage, { box: [x0, y0, x1, y1] }, margin) {
  const ratio = devicePixelRatio;
  const zoom = view.scale * ratio;
  const [width, height] = [stage.width * ratio, stage.height * ratio];
  const [left, top] = [-view.x * ratio, -view.y * ratio];
  return {
    left: Math.floor(Math.max(x0 * zoom - PADDING, left - margin * width)),
    top: Math.floor(Math.max(y0 * zoom - PADDING, top - margin * height)),
    right: Math.ceil(Math.min(x1 * zoom + PADDING, left + (1 + margin) * width)),
    bottom: Math.ceil(Math.min(y1 * zoom + PADDING, top + (1 + margin) * height)),
  };
}
