/** A box by two clicks: the first one sets a corner, and the second one the opposite corner. */

import { isBox } from "./gestures.js";
import { announce } from "./messages.js";

export class BoxCorners {
  #stage;
  #setBox;
  #first = /** @type {{x: number, y: number} | null} */ (null);
  #image = /** @type {ImageBitmap | null} */ (null);

  /** @param {import("./stage.js").Stage} stage @param {(box: [number, number, number, number]) => void} setBox */
  constructor(stage, setBox) {
    this.#stage = stage;
    this.#setBox = setBox;
  }

  /** Whether a corner waits for the opposite one. */
  get isOpen() {
    if (this.#image !== this.#stage.image) this.cancel(); // the corner was on another image
    return this.#first !== null;
  }

  /** Set a corner. @param {{x: number, y: number}} position pixels of the image */
  click(position) {
    if (!this.isOpen) {
      this.#first = position;
      this.#image = this.#stage.image;
      this.follow(position);
      announce("First corner set. Now the opposite corner. Escape cancels.");
      return;
    }
    const box = this.#boxTo(position);
    if (!isBox(box)) return; // a double click, or a box without pixels
    this.cancel();
    this.#setBox(box);
  }

  /** Show the box up to the pointer. @param {{x: number, y: number}} position pixels of the image */
  follow(position) {
    if (this.isOpen) this.#stage.draw({ draft: this.#boxTo(position) });
  }

  /** Drop the first corner. @returns {boolean} whether there was one */
  cancel() {
    if (!this.#first) return false;
    this.#first = null;
    this.#stage.draw({ draft: null });
    return true;
  }

  #boxTo({ x, y }) {
    const { x: x0, y: y0 } = /** @type {{x: number, y: number}} */ (this.#first);
    return /** @type {[number, number, number, number]} */ ([Math.min(x0, x), Math.min(y0, y), Math.max(x0, x), Math.max(y0, y)]);
  }
}
