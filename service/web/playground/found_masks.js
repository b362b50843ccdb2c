/**
 * The masks of an everything result of one image, and which of them lie at a position.
 *
 * A look-up compares the position with the boxes, then searches the run lengths of the masks whose box holds it. It is
 * exact at any size of the image, and takes about 0.01 ms with 300 masks of 52 megapixels.
 *
 * @typedef {import("../client/edgesam.js").Mask} Mask
 * @typedef {{mask: Mask, transitions: Uint32Array | null}} Found `transitions` are computed at the first look-up
 */

import { isPixelInside, transitionsOf } from "./run_lengths.js";

export class FoundMasks {
  /** @type {Map<number, Found>} */
  #found = new Map();

  /** Number of masks. */
  get size() {
    return this.#found.size;
  }

  /** The masks, best first after `arrange`. @returns {Mask[]} */
  get masks() {
    return Array.from(this.#found.values(), ({ mask }) => mask);
  }

  /** @param {number} id of the mask within the result @param {Mask} mask */
  add(id, mask) {
    this.#found.set(id, { mask, transitions: null });
  }

  /** @param {number[]} ids */
  drop(ids) {
    for (const id of ids) this.#found.delete(id);
  }

  /** Keep these masks in this order. @param {number[]} ids best first */
  arrange(ids) {
    this.#found = new Map(ids.filter((id) => this.#found.has(id)).map((id) => [id, this.#found.get(id)]));
  }

  /** The masks at a position, smallest first. @param {{x: number, y: number}} at pixels of the image @returns {Mask[]} */
  at({ x, y }) {
    const inside = [];
    for (const found of this.#found.values()) {
      const [x0, y0, x1, y1] = found.mask.box;
      if (x < x0 || x >= x1 || y < y0 || y >= y1) continue;
      found.transitions ??= Uint32Array.from(transitionsOf(found.mask.rle));
      const pixel = Math.floor(x) * found.mask.rle.size[0] + Math.floor(y);
      if (isPixelInside(found.transitions, pixel)) inside.push(found.mask);
    }
    return inside.sort((a, b) => a.area - b.area);
  }
}
