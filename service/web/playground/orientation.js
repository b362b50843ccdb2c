/**
 * Whether this browser shows an image as the service reads it. Browsers differ in which orientations they apply.
 *
 * `createImageBitmap` with `imageOrientation: "none"` would tell what a browser applied, but Chromium applies the
 * orientation nevertheless. A canvas with the style `image-orientation: none` draws the stored pixels of an `<img>` in all
 * browsers that know the style.
 */

const SIDE = 48; // of the squares to which images are scaled for the comparison, in pixels
const TOLERANCE = 3; // grey levels between two renderings of the same image
const LAST = SIDE - 1;

/** Where a stored pixel (x, y) of a square lies in the upright image, by EXIF orientation from 1. */
const PLACES = [
  (x, y) => [x, y],
  (x, y) => [LAST - x, y],
  (x, y) => [LAST - x, LAST - y],
  (x, y) => [x, LAST - y],
  (x, y) => [y, x],
  (x, y) => [LAST - y, x],
  (x, y) => [LAST - y, LAST - x],
  (x, y) => [y, LAST - x],
];

/**
 * @param {Blob} file image file
 * @param {ImageBitmap} shown the image as this browser shows it
 * @param {{width: number, height: number, orientation: number}} read what the service says of the image
 */
export async function isShownAsRead(file, shown, { width, height, orientation }) {
  if (shown.width !== width || shown.height !== height) return false;
  if (!CSS.supports("image-orientation", "none")) return true;
  const stored = await storedImage(file);
  if (!stored) return true;
  const canvas = document.createElement("canvas");
  canvas.style.cssText = "image-orientation: none; position: fixed; visibility: hidden; pointer-events: none";
  document.body.append(canvas); // the style counts only in the document
  try {
    const pixels = square(canvas, stored);
    const expected = square(new OffscreenCanvas(SIDE, SIDE), shown);
    const distances = PLACES.map((place) => distance(pixels, expected, place));
    return distances[orientation - 1] <= Math.min(...distances) + TOLERANCE;
  } finally {
    URL.revokeObjectURL(stored.src);
    canvas.remove();
  }
}

/** An element with the image, or null if the browser does not show it in an element. */
async function storedImage(file) {
  const element = new Image();
  element.src = URL.createObjectURL(file);
  try {
    await element.decode();
    return element;
  } catch {
    URL.revokeObjectURL(element.src);
    return null;
  }
}

/** The pixels of an image, scaled to a square. @param {HTMLCanvasElement | OffscreenCanvas} canvas */
function square(canvas, image) {
  canvas.width = canvas.height = SIDE;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, SIDE, SIDE);
  return context.getImageData(0, 0, SIDE, SIDE).data;
}

/** The mean difference between stored pixels and those of the upright image at their places, in grey levels. */
function distance(stored, upright, place) {
  let sum = 0;
  for (let at = 0; at < SIDE * SIDE; at++) {
    const [x, y] = place(at % SIDE, Math.floor(at / SIDE));
    for (let channel = 0; channel < 4; channel++) {
      sum += Math.abs(stored[4 * at + channel] - upright[4 * (y * SIDE + x) + channel]);
    }
  }
  return sum / stored.length;
}
