/**
 * Masks as the service writes them, made into rasters and drawn on a canvas.
 *
 * A raster may be smaller than its picture: what is shown needs no more pixels than the screen has, and a click on a
 * picture of 12 megapixels then costs no more than one on a small picture.
 *
 * @typedef {{width: number, height: number, data: Uint8Array}} Raster row by row, 1 inside, 0 outside
 * @typedef {{size: [number, number], counts: string}} Rle COCO's compressed run lengths; `size` is height, width
 * @typedef {{width: number, height: number}} Size pixels
 */

import { toFloat32 } from "./float16.js";

const FRAME_SIZE = 1024; // the encoder's square frame; the picture lies in it at the top left
const LOGITS_SIZE = 256; // logits cover the frame

/**
 * The run lengths in a COCO string: outside, inside, outside, …, column after column.
 *
 * @param {string} counts
 * @returns {number[]}
 * @throws {RangeError} the string ends in the middle of a number
 */
export function decodeCounts(counts) {
  const runs = [];
  for (let i = 0; i < counts.length; ) {
    let value = 0;
    let shift = 0;
    let symbol;
    do {
      if (i >= counts.length || shift > 30) throw new RangeError("The run lengths are cut off.");
      symbol = counts.charCodeAt(i++) - 48;
      value |= (symbol & 31) << shift;
      shift += 5;
    } while (symbol & 32);
    if (symbol & 16 && shift < 32) value |= -1 << shift;
    if (runs.length > 2) value += runs[runs.length - 2]; // differences to the run before the last, from the fourth on
    runs.push(value);
  }
  return runs;
}

/**
 * @param {Rle} rle
 * @param {Size} [size] of the raster; the picture's own unless given. A pixel is what the mask says at its centre.
 * @returns {Raster}
 * @throws {RangeError} the runs do not fill the picture
 */
export function rasterOfRle(rle, size) {
  const [pictureHeight, pictureWidth] = rle.size;
  const { width, height } = size ?? { width: pictureWidth, height: pictureHeight };
  const turns = [];
  let end = 0;
  for (const run of decodeCounts(rle.counts)) {
    if (run < 0) throw new RangeError("A run has a negative length.");
    turns.push((end += run));
  }
  if (end !== pictureWidth * pictureHeight) throw new RangeError("The runs do not fill the picture.");
  const data = new Uint8Array(width * height);
  const scale = height / pictureHeight;
  for (let x = 0, run = 0; x < width; x++) {
    const top = Math.floor(((x + 0.5) * pictureWidth) / width) * pictureHeight;
    const bottom = top + pictureHeight;
    while (turns[run] <= top) run++;
    for (let i = run, from = top; from < bottom; from = turns[i++]) {
      if (i % 2 === 0) continue;
      const first = Math.ceil((from - top) * scale - 0.5);
      const last = Math.ceil((Math.min(turns[i], bottom) - top) * scale - 0.5);
      for (let at = first * width + x; at < last * width; at += width) data[at] = 1;
    }
  }
  return { width, height, data };
}

/**
 * @param {string} logits base64 of 256×256 little-endian float16
 * @returns {Float32Array} row by row; above 0 is inside
 */
export function decodeLogits(logits) {
  const bytes = bytesOfBase64(logits);
  if (bytes.length !== 2 * LOGITS_SIZE ** 2) throw new RangeError("Logits are 256×256 numbers of two bytes.");
  return toFloat32(new Uint16Array(bytes.buffer));
}

/**
 * Upsampled linearly. The service's own masks are upsampled bicubically, in two steps: their edges differ by a pixel or
 * two.
 *
 * @param {Float32Array} logits of `decodeLogits`
 * @param {Size} picture
 * @param {Size} [size] of the raster; the picture's own unless given
 * @returns {Raster}
 */
export function rasterOfLogits(logits, picture, size = picture) {
  const { width, height } = size;
  const scale = FRAME_SIZE / Math.max(picture.width, picture.height);
  const columns = taps(width, Math.floor(picture.width * scale + 0.5));
  const data = new Uint8Array(width * height);
  taps(height, Math.floor(picture.height * scale + 0.5)).forEach(([top, down], y) => {
    const upper = top * LOGITS_SIZE;
    const lower = Math.min(top + 1, LOGITS_SIZE - 1) * LOGITS_SIZE;
    columns.forEach(([left, right], x) => {
      const next = Math.min(left + 1, LOGITS_SIZE - 1);
      const above = logits[upper + left] * (1 - right) + logits[upper + next] * right;
      const below = logits[lower + left] * (1 - right) + logits[lower + next] * right;
      if (above * (1 - down) + below * down > 0) data[y * width + x] = 1;
    });
  });
  return { width, height, data };
}

/**
 * @param {string} png base64 of a PNG file, 1 bit a pixel. A cut one (`crop`) is as large as the mask's box.
 * @returns {Promise<Raster>}
 */
export async function rasterOfPng(png) {
  const bitmap = await createImageBitmap(new Blob([bytesOfBase64(png)], { type: "image/png" }));
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const pixels = context.getImageData(0, 0, width, height).data;
  return { width, height, data: Uint8Array.from({ length: width * height }, (_, i) => Number(pixels[4 * i] > 127)) };
}

/**
 * Make a canvas as large as a raster and draw it there; outside stays transparent.
 *
 * @template {HTMLCanvasElement | OffscreenCanvas} Canvas
 * @param {Canvas} canvas
 * @param {Raster} raster
 * @param {[red: number, green: number, blue: number, alpha?: number]} [colour] each 0..255
 * @returns {Canvas}
 */
export function drawRaster(canvas, { width, height, data }, [red, green, blue, alpha = 255] = [255, 255, 255]) {
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  new Uint8ClampedArray(pixels.buffer).set([red, green, blue, alpha]); // the machine's own order of bytes
  const inside = pixels[0];
  for (let i = 0; i < data.length; i++) pixels[i] = data[i] ? inside : 0;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.putImageData(image, 0, 0);
  return canvas;
}

/**
 * How far two masks of one picture agree.
 *
 * @param {Rle} one
 * @param {Rle} other
 * @returns {number} pixels in both, as a part of those in any; 1 for two empty ones
 */
export function intersectionOverUnion(one, other) {
  const [ours, theirs] = [decodeCounts(one.counts), decodeCounts(other.counts)];
  let [both, any, i, j] = [0, 0, 0, 0];
  let [left, right] = [ours[0] ?? 0, theirs[0] ?? 0]; // of the runs i and j
  while (i < ours.length && j < theirs.length) {
    const step = Math.min(left, right);
    if (i % 2 && j % 2) both += step;
    if (i % 2 || j % 2) any += step;
    if ((left -= step) === 0) left = ours[++i] ?? 0;
    if ((right -= step) === 0) right = theirs[++j] ?? 0;
  }
  return any ? both / any : 1;
}

/** For each pixel of a side: the logit before its centre, and how far it lies towards the next one. */
function taps(length, inputLength) {
  const most = inputLength / 4 - 1;
  return Array.from({ length }, (_, i) => {
    const at = Math.min(Math.max(0, most), Math.max(0, ((i + 0.5) * inputLength) / length / 4 - 0.5));
    return [Math.floor(at), at - Math.floor(at)];
  });
}

function bytesOfBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** @param {Uint8Array} bytes @returns {string} */
export function base64OfBytes(bytes) {
  let text = "";
  const piece = 0x8000; // more arguments than that some engines do not take
  for (let start = 0; start < bytes.length; start += piece) {
    text += String.fromCharCode(...bytes.subarray(start, start + piece));
  }
  return btoa(text);
}
