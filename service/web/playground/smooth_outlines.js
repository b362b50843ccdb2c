/**
 * Smooth outlines of masks for SVG: fewer corners, and curves in their place.
 *
 * The result is valid geometry: rings cross neither each other nor themselves, and holes stay. Two facts ensure it. A
 * corner is taken out only if the triangle of it and its neighbours holds no other corner. So no other side can cross the
 * new side: it would have to end in the triangle. A curve lies in the triangle of its corner and its two ends, which are
 * on the sides at the corner, at most half-way. It replaces the corner only if that triangle holds no other corner. Then,
 * for the same reason, no other side and no other such triangle reaches into it.
 */

import { rasterOfRle } from "../client/masks.js";
import { rings } from "../client/outlines.js";
import { RingPoints } from "./ring_points.js";

const UNITS_PER_PIXEL = 100;
const LEAST_CORNERS = 4; // of a ring, so that small parts and holes keep an area
const HALVINGS = 4; // of a curve that has no place at a corner; after them the corner stays sharp
/** @type {WeakMap<object, number[][]>} */
const ringsOfMasks = new WeakMap();

/**
 * The outline of a mask, simplified and smooth.
 *
 * @param {import("../client/edgesam.js").Mask} mask
 * @param {number} tolerance above 0, in pixels; the outline is at most twice as far from the border of the mask
 * @returns {{path: string, corners: number}} the `d` of an SVG path, and the number of its corners
 */
export function smoothOutline(mask, tolerance) {
  const points = simplified(exactRings(mask), tolerance);
  return { path: smoothPath(points, tolerance), corners: points.remaining };
}

/**
 * Rings with fewer corners. Each remaining corner is one of the exact ring, and no corner that was taken out is farther
 * from the side in its place than the tolerance. Corners that change least are taken out first.
 *
 * @param {number[][]} exact result of `rings`
 * @param {number} tolerance pixels
 */
export function simplified(exact, tolerance) {
  const points = new RingPoints(exact);
  const limit = (tolerance * UNITS_PER_PIXEL) ** 2;
  const costs = new Float64Array(points.count);
  const queue = new Queue();
  const consider = (point) => {
    costs[point] = deviation(points, point, limit);
    if (costs[point] <= limit) queue.add(costs[point], point);
  };
  for (let point = 0; point < points.count; point++) consider(point);
  for (let entry = queue.take(); entry; entry = queue.take()) {
    const { cost, point } = entry;
    if (points.isRemoved[point] || cost !== costs[point] || points.sizes[points.ring[point]] <= LEAST_CORNERS) continue;
    const [before, after] = [points.before[point], points.after[point]];
    const triangle = [before, point, after].map((i) => /** @type {[number, number]} */ ([points.x[i], points.y[i]]));
    if (points.isOccupied(triangle, [before, point, after])) continue;
    points.remove(point);
    consider(before);
    consider(after);
  }
  return points;
}

/**
 * A path through rings, with a curve in place of each corner where it has a place.
 *
 * @param {RingPoints} points
 * @param {number} tolerance largest distance of a curve from its corner, in pixels
 * @returns {string} the `d` of an SVG path
 */
export function smoothPath(points, tolerance) {
  const text = ([x, y]) => `${shortened(x / UNITS_PER_PIXEL)} ${shortened(y / UNITS_PER_PIXEL)}`;
  return points
    .rings()
    .map((ring) => {
      const parts = ring.map((point) => {
        const corner = /** @type {[number, number]} */ ([points.x[point], points.y[point]]);
        const ends = curveEnds(points, point, tolerance * UNITS_PER_PIXEL);
        return ends ? `${text(ends[0])}Q${text(corner)} ${text(ends[1])}` : text(corner);
      });
      return `M${parts.join("L")}Z`;
    })
    .join("");
}

/** The exact rings of a mask, in pixels of the image. They are kept, since a slider asks for them again and again. */
function exactRings(mask) {
  let found = ringsOfMasks.get(mask);
  if (!found) {
    const [x0, y0, x1, y1] = mask.box;
    const whole = rasterOfRle(mask.rle);
    const [width, height] = [x1 - x0, y1 - y0];
    const data = new Uint8Array(width * height);
    for (let y = 0; y < height; y++) {
      const start = (y + y0) * whole.width + x0;
      data.set(whole.data.subarray(start, start + width), y * width);
    }
    found = rings({ width, height, data }).map((ring) => ring.map((value, i) => value + (i % 2 ? y0 : x0)));
    ringsOfMasks.set(mask, found);
  }
  return found;
}

/** Square of the largest distance of the exact corners between the neighbours of a point from the side between them. */
function deviation({ x, y, before, after, followed }, point, limit) {
  const [from, to] = [before[point], after[point]];
  const [dx, dy] = [x[to] - x[from], y[to] - y[from]];
  const length = dx * dx + dy * dy;
  let largest = 0;
  for (let i = followed[from]; i !== to && largest <= limit; i = followed[i]) {
    const [px, py] = [x[i] - x[from], y[i] - y[from]];
    const share = length === 0 ? 0 : Math.min(1, Math.max(0, (px * dx + py * dy) / length));
    largest = Math.max(largest, (px - share * dx) ** 2 + (py - share * dy) ** 2);
  }
  return largest;
}

/** Where the curve at a corner begins and ends; null for a sharp corner. @returns {[[number, number], [number, number]] | null} */
function curveEnds(points, point, tolerance) {
  const { x, y, before, after } = points;
  const [from, to] = [before[point], after[point]];
  const towards = (other, share) => /** @type {[number, number]} */ ([x[point] + share * (x[other] - x[point]), y[point] + share * (y[other] - y[point])]);
  // A curve from the middle of one side to that of the other is so far from its corner.
  const distance = Math.hypot(x[from] + x[to] - 2 * x[point], y[from] + y[to] - 2 * y[point]) / 8;
  let share = 0.5 * Math.min(1, tolerance / Math.max(distance, 1e-9));
  for (let i = 0; i < HALVINGS; i++, share /= 2) {
    const [start, end] = [towards(from, share), towards(to, share)];
    if (!points.isOccupied([start, [x[point], y[point]], end], [from, point, to])) return [start, end];
  }
  return null;
}

/** Three decimals, without zeros at the end. @param {number} value */
function shortened(value) {
  return String(Math.round(value * 1000) / 1000);
}

/** A priority queue: the least cost first. */
class Queue {
  /** @type {number[]} */
  #costs = [];
  /** @type {number[]} */
  #points = [];

  /** @param {number} cost @param {number} point */
  add(cost, point) {
    let at = this.#costs.length;
    this.#costs.push(cost);
    this.#points.push(point);
    for (let parent = (at - 1) >> 1; at > 0 && this.#costs[parent] > cost; at = parent, parent = (at - 1) >> 1) {
      this.#move(parent, at);
    }
    this.#costs[at] = cost;
    this.#points[at] = point;
  }

  /** @returns {{cost: number, point: number} | null} */
  take() {
    if (this.#costs.length === 0) return null;
    const taken = { cost: this.#costs[0], point: this.#points[0] };
    const cost = this.#costs.pop();
    const point = this.#points.pop();
    const { length } = this.#costs;
    if (length === 0) return taken;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= length) break;
      if (child + 1 < length && this.#costs[child + 1] < this.#costs[child]) child++;
      if (this.#costs[child] >= cost) break;
      this.#move(child, at);
      at = child;
    }
    this.#costs[at] = cost;
    this.#points[at] = point;
    return taken;
  }

  #move(from, to) {
    this.#costs[to] = this.#costs[from];
    this.#points[to] = this.#points[from];
  }
}
