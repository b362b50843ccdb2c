/**
 * Brush and eraser: they paint on the selected object's mask at the image's resolution.
 *
 * The result of a stroke is a given mask: it is exported as painted, and Refine sends it to the model.
 */

import { BrushStroke } from "./brush_stroke.js";
import { announce } from "./messages.js";
import { joined, maskOfTransitions, transitionsOf, without } from "./run_lengths.js";

const MIN_SIZE = 2; // pixels; a smaller circle may lie between the middles of pixels
const DEFAULT_SHARE = 1 / 40; // of the longer side of the image
const MAX_SHARE = 1 / 4;
const STEP = 1.25;

export class Brush {
  #session;
  #stage;
  #parts;
  #image = /** @type {ImageBitmap | null} */ (null);
  #size = MIN_SIZE;
  #cursor = /** @type {{x: number, y: number} | null} */ (null);
  /** @type {{painted: BrushStroke, path: Path2D, isErasing: boolean, objectId: number, image: ImageBitmap} | null} */
  #stroke = null;

  /**
   * @param {import("./session.js").Session} session
   * @param {import("./stage.js").Stage} stage
   * @param {{bar: HTMLElement, slider: HTMLInputElement, label: HTMLElement, refine: HTMLButtonElement}} parts
   */
  constructor(session, stage, parts) {
    this.#session = session;
    this.#stage = stage;
    this.#parts = parts;
    parts.slider.addEventListener("input", () => this.#setSize(sizeOf(Number(parts.slider.value), this.#maxSize)));
    parts.refine.addEventListener("click", () => session.refine());
    session.addEventListener("change", () => this.#update());
    this.#update();
  }

  /** Show or hide the brush's bar. @param {boolean} isOn */
  setOn(isOn) {
    this.#parts.bar.hidden = !isOn;
    if (!isOn) this.cancel();
    if (!isOn) this.hover(null);
    if (isOn) this.#fitImage();
  }

  /** Make the brush larger or smaller. @param {1 | -1} direction */
  resize(direction) {
    this.#fitImage();
    const size = direction > 0 ? Math.max(this.#size + 1, this.#size * STEP) : Math.min(this.#size - 1, this.#size / STEP);
    this.#setSize(Math.round(size));
    announce(`Brush, ${this.#size} pixels.`);
  }

  /** Show the circle. @param {{x: number, y: number} | null} position pixels of the image */
  hover(position) {
    this.#cursor = position;
    this.#draw();
  }

  /** @param {{x: number, y: number}} position pixels of the image, also beside it @param {boolean} isErasing */
  start(position, isErasing) {
    this.#fitImage();
    const { id, isVisible } = this.#session.selected;
    if (!isVisible) this.#session.setVisible([id], true);
    const image = /** @type {ImageBitmap} */ (this.#stage.image);
    const painted = new BrushStroke(image, this.#size / 2);
    const path = new Path2D();
    path.moveTo(position.x, position.y);
    path.lineTo(position.x + 0.01, position.y); // a line without length would not be drawn
    painted.add(position);
    this.#stroke = { painted, path, isErasing, objectId: id, image };
    this.hover(position);
  }

  /** @param {{x: number, y: number}} position */
  move(position) {
    if (!this.#stroke) return;
    this.#stroke.path.lineTo(position.x, position.y);
    this.#stroke.painted.add(position);
    this.hover(position);
  }

  /** End the stroke: the mask changes in one step. */
  end() {
    const stroke = this.#stroke;
    this.cancel();
    const { selected } = this.#session;
    if (!stroke || stroke.objectId !== selected.id || stroke.image !== this.#stage.image) return;
    const mask = this.#session.mask(selected);
    const { width, height } = stroke.image;
    const before = mask ? transitionsOf(mask.rle) : [];
    const painted = stroke.painted.transitions();
    const after = maskOfTransitions(stroke.isErasing ? without(before, painted) : joined(before, painted), [height, width]);
    if (after.area === (mask?.area ?? 0)) return; // a stroke only adds pixels, or only takes them away
    this.#session.paint(after);
    if (after.area === 0) {
      announce("Erased. The mask is empty.");
      return;
    }
    const share = ((100 * after.area) / (width * height)).toFixed(1);
    announce(`${stroke.isErasing ? "Erased" : "Painted"}. The mask has ${share} % of the image.`);
  }

  /** Drop the stroke that is under way. */
  cancel() {
    this.#stroke = null;
    this.#draw();
  }

  get #maxSize() {
    return Math.max(8, Math.round(this.#longerSide * MAX_SHARE));
  }

  get #longerSide() {
    const { width, height } = this.#stage.image ?? { width: 1, height: 1 };
    return Math.max(width, height);
  }

  /** Choose a size for a new image. */
  #fitImage() {
    if (this.#image === this.#stage.image) return;
    this.#image = this.#stage.image;
    this.#setSize(Math.round(this.#longerSide * DEFAULT_SHARE));
  }

  #setSize(size) {
    const { slider, label } = this.#parts;
    this.#size = Math.min(this.#maxSize, Math.max(MIN_SIZE, size));
    slider.value = String(valueOf(this.#size, this.#maxSize));
    slider.setAttribute("aria-valuetext", `${this.#size} pixels`);
    label.textContent = `${this.#size} px`;
    this.#draw();
  }

  #update() {
    const { prompt } = this.#session.selected;
    this.#parts.refine.disabled = !prompt?.given;
  }

  #draw() {
    this.#stage.draw({ brush: { cursor: this.#cursor, radius: this.#size / 2, stroke: this.#stroke } });
  }
}

/** A size from the slider's value, 0..100. Equal steps multiply the size. */
function sizeOf(value, max) {
  return Math.round(MIN_SIZE * (max / MIN_SIZE) ** (value / 100));
}

/** The inverse of `sizeOf`. */
function valueOf(size, max) {
  return Math.round((100 * Math.log(size / MIN_SIZE)) / Math.log(max / MIN_SIZE));
}
