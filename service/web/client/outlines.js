/**
 * Outlines of rasters: closed lines along the borders of pixels.
 *
 * @typedef {import("./masks.js").Raster} Raster
 * @typedef {{x: number, y: number, from: number, to: number, isAlone: boolean}} Visit a corner on a line with the directions
 *   before and after it; `isAlone` if the corner is visited once
 */

// Directions 0 to 3: east, south, west, north. A line always has the inside on its right.
const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]];
const EAST = 1;
const WEST = 4;
// The next direction by borders and direction: right before straight, so that pixels that touch at a corner stay apart.
const NEXT = Array.from({ length: 16 }, (_, borders) =>
  [0, 1, 2, 3].map((at) => [1, 0, 3, 2].map((turn) => (at + turn) % 4).find((direction) => borders & (1 << direction)) ?? at),
);
const COUNT = Array.from({ length: 16 }, (_, borders) => [0, 1, 2, 3].filter((direction) => borders & (1 << direction)).length);
const GAPS_PER_PIXEL = 100; // half the width of a cut is one gap

/**
 * Pixels that touch only at a corner belong to different outlines. Filling all outlines (even-odd or non-zero) gives
 * the raster again.
 *
 * @param {Raster} raster
 * @returns {number[][]} closed lines x, y, x, y, …, corners only; outer lines are clockwise, holes counter-clockwise
 */
export function outlines(raster) {
  return walks(new Grid(raster)).map((visits) => {
    const line = [];
    for (const { x, y, from, to } of visits) if (from !== to) line.push(x, y);
    return line;
  });
}

/**
 * The connected parts of a raster as polygons without holes, for formats that have none.
 *
 * A cut leads from each hole to the line on its left. Cuts run along borders of pixels and are 1/50 pixel wide. Corners at
 * which a line would touch itself or another line are moved inwards by 1/100 pixel. Each polygon is therefore valid:
 * no two of its sides touch, and no two polygons touch. The centres of pixels inside are the same as in the raster.
 *
 * @param {Raster} raster
 * @returns {number[][]} closed lines x, y, x, y, …, clockwise
 */
export function polygons(raster) {
  const grid = new Grid(raster);
  let found = walks(grid);
  const holes = found.filter((visits) => doubledArea(visits) < 0);
  for (const visits of holes) grid.cut(visits.reduce((a, b) => (b.x < a.x || (b.x === a.x && b.y < a.y) ? b : a)));
  if (holes.length > 0) found = walks(grid);
  return found.map((visits) => corners(visits.map((visit) => moved(visit))).map((gaps) => gaps / GAPS_PER_PIXEL));
}

/**
 * The outlines of a raster as rings that touch neither each other nor themselves.
 *
 * They are the outlines, except that corners which two pixels share diagonally are moved inwards by 1/100 pixel.
 *
 * @param {Raster} raster
 * @returns {number[][]} closed lines x, y, x, y, …, corners only; outer rings are clockwise, holes counter-clockwise
 */
export function rings(raster) {
  return walks(new Grid(raster)).map((visits) => {
    const bends = visits.filter(({ from, to }) => from !== to);
    return bends.flatMap((visit) => moved(visit).map((gaps) => gaps / GAPS_PER_PIXEL));
  });
}

/** The corners of a raster's pixels. Each has a bit for every direction in which a border leaves it. */
class Grid {
  /** @param {Raster} raster */
  constructor({ width, height, data }) {
    this.columns = width + 1;
    this.steps = STEPS.map(([x, y]) => y * this.columns + x);
    this.borders = new Uint8Array(this.columns * (height + 1));
    for (let y = 0, at = 0; y <= height; y++) {
      let [northWest, southWest] = [0, 0]; // pixels around the corner
      for (let x = 0; x <= width; x++, at++) {
        const northEast = x < width && y > 0 ? data[(y - 1) * width + x] : 0;
        const southEast = x < width && y < height ? data[y * width + x] : 0;
        this.borders[at] =
          (southEast & ~northEast) | ((southWest & ~southEast) << 1) | ((northWest & ~southWest) << 2) | ((northEast & ~northWest) << 3);
        [northWest, southWest] = [northEast, southEast];
      }
    }
  }

  /** Cut from the leftmost corner of a hole, the upper one of several, to the next line on the left. @param {{x: number, y: number}} corner */
  cut({ x, y }) {
    // Both pixels beside each border on the way are inside. At the end another line passes.
    let at = y * this.columns + x;
    let isReached = false;
    while (!isReached) {
      this.borders[at--] |= WEST;
      isReached = this.borders[at] !== 0;
      this.borders[at] |= EAST;
    }
  }
}

/**
 * All lines along the borders.
 *
 * @param {Grid} grid
 * @returns {Visit[][]} visits of corners: those where a line bends, and those that are visited several times
 */
function walks({ columns, steps, borders }) {
  const isWalked = new Uint8Array(borders.length); // by corner: its border to the east; every line has such a border
  const found = [];
  for (let start = 0; start < borders.length; start++) {
    if (!(borders[start] & EAST) || isWalked[start]) continue;
    const visits = [];
    let [at, direction] = [start, 0];
    do {
      if (direction === 0) isWalked[at] = 1;
      at += steps[direction];
      const to = NEXT[borders[at]][direction];
      const isAlone = COUNT[borders[at]] === 1;
      if (to !== direction || !isAlone) visits.push({ x: at % columns, y: Math.floor(at / columns), from: direction, to, isAlone });
      direction = to;
    } while (at !== start || direction !== 0);
    found.push(visits);
  }
  return found;
}

/** Positive for outer lines, negative for holes. @param {Visit[]} visits */
function doubledArea(visits) {
  return visits.reduce((sum, { x, y }, i) => {
    const next = visits[(i + 1) % visits.length];
    return sum + x * next.y - next.x * y;
  }, 0);
}

/** A visited corner in gaps; one that is visited several times is moved to the inside, which is on the right. @param {Visit} visit */
function moved({ x, y, from, to, isAlone }) {
  let [right, down] = [0, 0];
  if (!isAlone) {
    for (const direction of new Set([from, to])) {
      right += STEPS[(direction + 1) % 4][0];
      down += STEPS[(direction + 1) % 4][1];
    }
  }
  return [x * GAPS_PER_PIXEL + right, y * GAPS_PER_PIXEL + down];
}

/** The points of a closed line without those on a straight side. @param {number[][]} points @returns {number[]} x, y, x, y, … */
function corners(points) {
  const kept = points.filter(([x, y], i) => {
    const [beforeX, beforeY] = points[(i + points.length - 1) % points.length];
    const [afterX, afterY] = points[(i + 1) % points.length];
    return (x - beforeX) * (afterY - y) !== (y - beforeY) * (afterX - x);
  });
  return kept.flat();
}

/** @param {number[][]} lines result of `outlines` @returns {string} the `d` of an SVG path */
export function pathOf(lines) {
  return lines
    .map(([x, y, ...rest]) => {
      let text = `M${x} ${y}`;
      for (let i = 0; i < rest.length; i += 2) {
        text += rest[i + 1] === y ? `H${rest[i]}` : `V${rest[i + 1]}`;
        [x, y] = [rest[i], rest[i + 1]];
      }
      return `${text}Z`;
    })
    .join("");
}
