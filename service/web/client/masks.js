/**
 * Decodes the service's masks to rasters, and draws rasters on a canvas.
 *
 * A raster may be smaller than its image, since a page needs no more pixels than the screen has. Drawing a mask of an
 * image with 12 megapixels then takes no longer than drawing one of a small image.
 *
 * @typedef {{width: number, height: number, data: Uint8Array}} Raster pixels row by row: 1 inside, 0 outside
 * @typedef {{size: [number, number], counts: string}} Rle COCO's compressed run lengths; `size` is height, width
 * @typedef {{exterior: [number, number][], holes: [number, number][][]}} Polygon
 * @typedef {{score: number, stability: number, predicted_iou: number, area: number, box: import("./edgesam.js").Box, mask_id: string,
 *   rle?: Rle, png?: string, alpha?: string, alpha_box?: import("./edgesam.js").Box, polygon?: Polygon[],
 *   logits?: string}} Mask masks are ordered by their score before it is limited to 0..1; see `Ranking`. `alpha` is a grey PNG
 *   with a soft edge, and `alpha_box` the part of the image with values above 0
 * @typedef {{bias: number[], stability: number, predicted_iou: number, agreement: number}} Ranking weights of a mask's `score`: bias of
 *   the output + stability × its stability + predicted_iou × its predicted IoU, limited to 0..1
 * @typedef {{width: number, height: number}} Size pixels
 * @typedef {{width: number, height: number, getContext: (kind: "2d") => any}} Canvas an HTMLCanvasElement, an
 *   OffscreenCanvas, or the canvas of a package for Node
 */

import { toFloat32 } from "./float16.js";

const FRAME_SIZE = 1024; // side of the square frame of images; a letterboxed image lies in it at the top left
const LOGITS_SIZE = 256; // side of the logits, which cover the frame

/**
 * Decode a COCO string to run lengths: outside, inside, outside, …, column after column.
 *
 * @param {string} counts
 * @returns {number[]}
 * @throws {RangeError} if the string ends in the middle of a number
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
    if (runs.length > 2) value += runs[runs.length - 2]; // from the fourth on, numbers are differences to the run two before
    runs.push(value);
  }
  return runs;
}

/**
 * Encode run lengths as a COCO string: the inverse of `decodeCounts`.
 *
 * @param {number[]} runs outside, inside, outside, …, column after column
 * @returns {string}
 */
export function encodeCounts(runs) {
  /** @type {number[]} */
  const symbols = [];
  runs.forEach((run, i) => {
    let value = i > 2 ? run - runs[i - 2] : run;
    for (;;) {
      const digit = value & 31;
      value >>= 5;
      const isLast = digit & 16 ? value === -1 : value === 0;
      symbols.push((isLast ? digit : digit | 32) + 48);
      if (isLast) break;
    }
  });
  return new TextDecoder().decode(Uint8Array.from(symbols));
}

/**
 * Decode a mask to a raster. Each pixel of the raster has the mask's value at the pixel's centre.
 *
 * @param {Rle} rle
 * @param {Size} [size] size of the raster; by default the image's size
 * @returns {Raster}
 * @throws {RangeError} if the runs do not fill the image
 */
export function rasterOfRle(rle, size) {
  const [imageHeight, imageWidth] = rle.size;
  const { width, height } = size ?? { width: imageWidth, height: imageHeight };
  const transitions = [];
  let end = 0;
  for (const run of decodeCounts(rle.counts)) {
    if (run < 0) throw new RangeError("A run has a negative length.");
    transitions.push((end += run));
  }
  if (end !== imageWidth * imageHeight) throw new RangeError("The runs do not fill the image.");
  const data = new Uint8Array(width * height);
  const scale = height / imageHeight;
  for (let x = 0, run = 0; x < width; x++) {
    const top = Math.floor(((x + 0.5) * imageWidth) / width) * imageHeight;
    const bottom = top + imageHeight;
    while (transitions[run] <= top) run++;
    for (let i = run, from = top; from < bottom; from = transitions[i++]) {
      if (i % 2 === 0) continue;
      const first = Math.ceil((from - top) * scale - 0.5);
      const last = Math.ceil((Math.min(transitions[i], bottom) - top) * scale - 0.5);
      for (let at = first * width + x; at < last * width; at += width) data[at] = 1;
    }
  }
  return { width, height, data };
}

/**
 * Decode the `logits` of a mask.
 *
 * @param {string} logits base64 of 256×256 little-endian float16 numbers
 * @returns {Float32Array} 256×256, row by row; positive inside the mask
 */
export function decodeLogits(logits) {
  const bytes = bytesOfBase64(logits);
  if (bytes.length !== 2 * LOGITS_SIZE ** 2) throw new RangeError("Logits are 256×256 numbers of two bytes.");
  return toFloat32(new Uint16Array(bytes.buffer));
}

/**
 * Upsample logits linearly to a raster. For letterboxed images the service upsamples in two steps, so the edges of its
 * masks may differ by a pixel or two.
 *
 * @param {Float32Array} logits result of `decodeLogits`
 * @param {Size} image size of the image
 * @param {Size} [size] size of the raster; by default the image's size
 * @param {"letterbox" | "stretch"} [resize] `resize` of the model in /models: how the image fills the frame
 * @returns {Raster}
 */
export function rasterOfLogits(logits, image, size = image, resize = "letterbox") {
  const { width, height } = size;
  const scale = FRAME_SIZE / Math.max(image.width, image.height);
  const inFrame = (/** @type {number} */ length) => (resize === "stretch" ? FRAME_SIZE : Math.floor(length * scale + 0.5));
  const columns = taps(width, inFrame(image.width));
  const data = new Uint8Array(width * height);
  taps(height, inFrame(image.height)).forEach(([top, down], y) => {
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
 * Decode the `png` of a mask. This needs a browser; `rasterOfRle` works everywhere.
 *
 * @param {string} png base64 of a PNG file with 1 bit per pixel; with the option `crop` it has the size of the mask's box
 * @returns {Promise<Raster>}
 * @throws {TypeError} outside a browser
 */
export async function rasterOfPng(png) {
  if (!globalThis.createImageBitmap || !globalThis.OffscreenCanvas) {
    throw new TypeError("rasterOfPng needs a browser. Ask for masks in the format rle, and decode them with rasterOfRle.");
  }
  const bitmap = await createImageBitmap(new Blob([bytesOfBase64(png)], { type: "image/png" }));
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const pixels = context.getImageData(0, 0, width, height).data;
  return { width, height, data: Uint8Array.from({ length: width * height }, (_, i) => Number(pixels[4 * i] > 127)) };
}

/**
 * Draw a raster on a canvas, which gets the raster's size. Pixels outside the mask become transparent.
 *
 * @template {Canvas} T
 * @param {T} canvas
 * @param {Raster} raster
 * @param {[red: number, green: number, blue: number, alpha?: number]} [colour] each channel 0..255; white by default
 * @returns {T}
 * @throws {TypeError} if `canvas` is none
 */
export function drawRaster(canvas, { width, height, data }, [red, green, blue, alpha = 255] = [255, 255, 255]) {
  const context = canvas?.getContext?.("2d");
  if (!context) {
    throw new TypeError("drawRaster needs a canvas with a 2D context. Node has none: use `data` of the raster, or a package with a canvas.");
  }
  canvas.width = width;
  canvas.height = height;
  const imageData = context.createImageData(width, height);
  const pixels = new Uint32Array(imageData.data.buffer);
  new Uint8ClampedArray(pixels.buffer).set([red, green, blue, alpha]); // as bytes, so that byte order does not matter
  const inside = pixels[0];
  for (let i = 0; i < data.length; i++) pixels[i] = data[i] ? inside : 0;
  context.putImageData(imageData, 0, 0);
  return canvas;
}

/**
 * Intersection over union of two masks of one image.
 *
 * @param {Rle} one
 * @param {Rle} other
 * @returns {number} pixels in both masks divided by pixels in either; 1 if both are empty
 */
export function intersectionOverUnion(one, other) {
  const [ours, theirs] = [decodeCounts(one.counts), decodeCounts(other.counts)];
  let [both, any, i, j] = [0, 0, 0, 0];
  let [left, right] = [ours[0] ?? 0, theirs[0] ?? 0]; // pixels left in the runs i and j
  while (i < ours.length && j < theirs.length) {
    const step = Math.min(left, right);
    if (i % 2 && j % 2) both += step;
    if (i % 2 || j % 2) any += step;
    if ((left -= step) === 0) left = ours[++i] ?? 0;
    if ((right -= step) === 0) right = theirs[++j] ?? 0;
  }
  return any ? both / any : 1;
}

/** For each pixel along a side: the index of the logit before its centre, and the weight of the next logit. @param {number} length @param {number} inputLength */
function taps(length, inputLength) {
  const last = inputLength / 4 - 1;
  return Array.from({ length }, (_, i) => {
    const at = Math.min(Math.max(0, last), Math.max(0, ((i + 0.5) * inputLength) / length / 4 - 0.5));
    return [Math.floor(at), at - Math.floor(at)];
  });
}

/** @param {string} text */
function bytesOfBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** @param {Uint8Array} bytes @returns {string} */
export function base64OfBytes(bytes) {
  if ("toBase64" in bytes) return /** @type {any} */ (bytes).toBase64(); // 20 times as fast, in browsers since 2025
  let text = "";
  const chunk = 0x8000; // some engines do not accept more arguments
  for (let start = 0; start < bytes.length; start += chunk) {
    text += String.fromCharCode(...bytes.subarray(start, start + chunk));
  }
  return btoa(text);
}
