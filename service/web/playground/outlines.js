/** Outlines of rasters: closed lines along the borders of pixels. */

// East, south, west, north. The line always has the inside on its right.
const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]];
// Offsets from a corner of the grid, for each direction: the pixel ahead on the right, and the pixel ahead on the left.
const RIGHT = [[0, 0], [-1, 0], [-1, -1], [0, -1]];
const LEFT = [[0, -1], [0, 0], [-1, 0], [-1, -1]];

/**
 * Pixels that touch only at a corner belong to different outlines. Filling all outlines (even-odd or non-zero) gives
 * the raster again.
 *
 * @param {import("../client/masks.js").Raster} raster
 * @returns {number[][]} closed lines x, y, x, y, …, corners only; outer lines are clockwise, holes counter-clockwise
 */
export function outlines({ width, height, data }) {
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && data[y * width + x] === 1;
  const isWalked = new Uint8Array(data.length); // by pixel: its upper edge is on an outline already found; every outline has such an edge
  const found = [];
  for (let at = 0; at < data.length; at++) {
    if (data[at] !== 1 || isWalked[at] || (at >= width && data[at - width] === 1)) continue;
    const [startX, startY] = [at % width, Math.floor(at / width)];
    const line = [];
    let [x, y, direction] = [startX, startY, 0];
    do {
      if (direction === 0) isWalked[y * width + x] = 1;
      x += STEPS[direction][0];
      y += STEPS[direction][1];
      let next = direction;
      if (!inside(x + RIGHT[direction][0], y + RIGHT[direction][1])) next = (direction + 1) % 4;
      else if (inside(x + LEFT[direction][0], y + LEFT[direction][1])) next = (direction + 3) % 4;
      if (next !== direction) line.push(x, y);
      direction = next;
    } while (x !== startX || y !== startY || direction !== 0);
    found.push(line);
  }
  return found;
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
