/**
 * The pixels that a round brush covers: those whose middles lie within its radius of the line that it followed.
 *
 * A stroke keeps rows by column instead of an image, so that a stroke in 52 megapixels needs no more memory than it
 * covers columns.
 */

export class BrushStroke {
  #width;
  #height;
  #radius;
  #last = /** @type {{x: number, y: number} | null} */ (null);
  /** First row and end row of each run, alternating and in order, by column. @type {Map<number, number[]>} */
  #columns = new Map();

  /** @param {{width: number, height: number}} image @param {number} radius at least 1 pixel, so that a click covers a pixel */
  constructor({ width, height }, radius) {
    this.#width = width;
    this.#height = height;
    this.#radius = radius;
  }

  /** Go on to a position in a straight line. @param {{x: number, y: number}} to pixels of the image, also beside it */
  add(to) {
    const from = this.#last ?? to;
    this.#last = to;
    const first = Math.max(0, Math.floor(Math.min(from.x, to.x) - this.#radius));
    const end = Math.min(this.#width, Math.ceil(Math.max(from.x, to.x) + this.#radius));
    for (let column = first; column < end; column++) {
      const [top, bottom] = reach(from, to, this.#radius, column + 0.5);
      this.#cover(column, Math.max(0, Math.ceil(top - 0.5)), Math.min(this.#height, Math.floor(bottom - 0.5) + 1));
    }
  }

  /** First pixel and end pixel of each run, alternating, counted column after column. @returns {number[]} */
  transitions() {
    const columns = [...this.#columns].sort(([a], [b]) => a - b);
    return columns.flatMap(([column, rows]) => rows.map((row) => column * this.#height + row));
  }

  #cover(column, start, end) {
    if (start >= end) return;
    const rows = this.#columns.get(column) ?? [];
    const kept = [];
    for (let i = 0; i < rows.length; i += 2) {
      if (rows[i + 1] < start || rows[i] > end) kept.push([rows[i], rows[i + 1]]);
      else [start, end] = [Math.min(start, rows[i]), Math.max(end, rows[i + 1])];
    }
    kept.push([start, end]);
    this.#columns.set(column, kept.sort(([a], [b]) => a - b).flat());
  }
}

/**
 * Where a vertical line meets the area around a line from `from` to `to`. The area is convex, so this is one piece.
 *
 * @returns {[top: number, bottom: number]} top > bottom if they do not meet
 */
function reach(from, to, radius, x) {
  let [top, bottom] = [Infinity, -Infinity];
  const include = (y) => {
    top = Math.min(top, y);
    bottom = Math.max(bottom, y);
  };
  for (const end of [from, to]) {
    const left = radius * radius - (x - end.x) * (x - end.x);
    if (left < 0) continue;
    include(end.y - Math.sqrt(left));
    include(end.y + Math.sqrt(left));
  }
  const length = Math.hypot(to.x - from.x, to.y - from.y);
  if (length === 0) return [top, bottom];
  const normal = { x: (radius * (from.y - to.y)) / length, y: (radius * (to.x - from.x)) / length };
  const corners = [
    { x: from.x + normal.x, y: from.y + normal.y },
    { x: to.x + normal.x, y: to.y + normal.y },
    { x: to.x - normal.x, y: to.y - normal.y },
    { x: from.x - normal.x, y: from.y - normal.y },
  ];
  corners.forEach((a, i) => {
    const b = corners[(i + 1) % 4];
    if ((a.x < x && b.x < x) || (a.x > x && b.x > x) || a.x === b.x) return;
    include(a.y + ((x - a.x) / (b.x - a.x)) * (b.y - a.y));
  });
  return [top, bottom];
}
