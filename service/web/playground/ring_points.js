/**
 * The points of several rings, to be removed one after the other. A grid finds the points near a place.
 *
 * Coordinates are whole numbers: hundredths of a pixel. Tests on which side of a line a point lies are therefore exact.
 */

const UNITS_PER_PIXEL = 100;
const POINTS_PER_CELL = 4;
const LEAST_CELL = UNITS_PER_PIXEL;

export class RingPoints {
  #cell = LEAST_CELL;
  #columns = 1;
  #rows = 1;
  #minX = 0;
  #minY = 0;
  #starts = new Int32Array(2);
  #items = new Int32Array(0);
  #atLastSort = 0;

  /** @param {number[][]} rings closed lines x, y, x, y, …, in pixels */
  constructor(rings) {
    this.count = rings.reduce((sum, ring) => sum + ring.length / 2, 0);
    this.x = new Int32Array(this.count);
    this.y = new Int32Array(this.count);
    this.ring = new Int32Array(this.count);
    this.before = new Int32Array(this.count);
    this.after = new Int32Array(this.count);
    /** Points of each ring that were not removed. */
    this.sizes = rings.map((ring) => ring.length / 2);
    this.isRemoved = new Uint8Array(this.count);
    this.remaining = this.count;
    let at = 0;
    rings.forEach((ring, index) => {
      const first = at;
      for (let i = 0; i < ring.length; i += 2, at++) {
        this.x[at] = Math.round(ring[i] * UNITS_PER_PIXEL);
        this.y[at] = Math.round(ring[i + 1] * UNITS_PER_PIXEL);
        this.ring[at] = index;
        this.before[at] = i === 0 ? first + ring.length / 2 - 1 : at - 1;
        this.after[at] = i + 2 === ring.length ? first : at + 1;
      }
    });
    /** The point that followed each one at the beginning. */
    this.followed = this.after.slice();
    this.#sort();
  }

  /** Take a point out of its ring. @param {number} point */
  remove(point) {
    this.after[this.before[point]] = this.after[point];
    this.before[this.after[point]] = this.before[point];
    this.isRemoved[point] = 1;
    this.sizes[this.ring[point]]--;
    if (--this.remaining < this.#atLastSort / 2) this.#sort();
  }

  /** The rings without the removed points: the points of each, in order. @returns {number[][]} indices of points */
  rings() {
    const found = this.sizes.map(() => []);
    for (let point = 0; point < this.count; point++) if (!this.isRemoved[point]) found[this.ring[point]].push(point);
    return found;
  }

  /**
   * Whether a triangle holds a point, inside or on its border, other than three given ones.
   *
   * @param {[number, number][]} corners hundredths of a pixel, not always whole ones
   * @param {number[]} without points that do not count
   */
  isOccupied([[ax, ay], [bx, by], [cx, cy]], without) {
    const { x, y, isRemoved } = this;
    const column = (value) => Math.min(this.#columns - 1, Math.max(0, Math.floor((value - this.#minX) / this.#cell)));
    const row = (value) => Math.min(this.#rows - 1, Math.max(0, Math.floor((value - this.#minY) / this.#cell)));
    const [left, right] = [column(Math.min(ax, bx, cx)), column(Math.max(ax, bx, cx))];
    const [top, bottom] = [row(Math.min(ay, by, cy)), row(Math.max(ay, by, cy))];
    for (let at = top; at <= bottom; at++) {
      const end = this.#starts[at * this.#columns + right + 1];
      for (let i = this.#starts[at * this.#columns + left]; i < end; i++) {
        const point = this.#items[i];
        if (isRemoved[point] || without.includes(point)) continue;
        const [px, py] = [x[point], y[point]];
        const ab = (bx - ax) * (py - ay) - (by - ay) * (px - ax);
        const bc = (cx - bx) * (py - by) - (cy - by) * (px - bx);
        const ca = (ax - cx) * (py - cy) - (ay - cy) * (px - cx);
        if ((ab >= 0 && bc >= 0 && ca >= 0) || (ab <= 0 && bc <= 0 && ca <= 0)) {
          if (ab !== 0 || bc !== 0 || ca !== 0 || isBetween([ax, bx, cx], px, [ay, by, cy], py)) return true;
        }
      }
    }
    return false;
  }

  /** Sort the points that are left into cells, by counting. */
  #sort() {
    const { x, y, isRemoved, count } = this;
    let [maxX, maxY] = [-Infinity, -Infinity];
    [this.#minX, this.#minY] = [Infinity, Infinity];
    for (let point = 0; point < count; point++) {
      if (isRemoved[point]) continue;
      this.#minX = Math.min(this.#minX, x[point]);
      this.#minY = Math.min(this.#minY, y[point]);
      maxX = Math.max(maxX, x[point]);
      maxY = Math.max(maxY, y[point]);
    }
    const area = Math.max(1, (maxX - this.#minX) * (maxY - this.#minY));
    this.#cell = Math.max(LEAST_CELL, Math.sqrt((area * POINTS_PER_CELL) / Math.max(1, this.remaining)));
    this.#columns = Math.max(1, Math.floor((maxX - this.#minX) / this.#cell) + 1) || 1;
    this.#rows = Math.max(1, Math.floor((maxY - this.#minY) / this.#cell) + 1) || 1;
    const cellOf = (point) =>
      Math.floor((y[point] - this.#minY) / this.#cell) * this.#columns + Math.floor((x[point] - this.#minX) / this.#cell);
    this.#starts = new Int32Array(this.#columns * this.#rows + 1);
    for (let point = 0; point < count; point++) if (!isRemoved[point]) this.#starts[cellOf(point) + 1]++;
    for (let cell = 1; cell < this.#starts.length; cell++) this.#starts[cell] += this.#starts[cell - 1];
    const next = this.#starts.slice();
    this.#items = new Int32Array(this.remaining);
    for (let point = 0; point < count; point++) if (!isRemoved[point]) this.#items[next[cellOf(point)]++] = point;
    this.#atLastSort = this.remaining;
  }
}

/** Whether a point on the line of a triangle without area lies on the triangle. */
function isBetween(xs, x, ys, y) {
  return Math.min(...xs) <= x && x <= Math.max(...xs) && Math.min(...ys) <= y && y <= Math.max(...ys);
}
