/**
 * Exports as pixels: cut-out, mask, and the image of indices.
 *
 * @typedef {import("./exports.js").ExportedObject} ExportedObject
 * @typedef {import("./soft_edges.js").AlphaCrop} AlphaCrop
 */

import { drawRaster, rasterOfRle } from "../client/masks.js";
import { channels } from "./colours.js";
import { palettePng } from "./png.js";

const MAX_INDEX = 255;

/**
 * The image inside masks, transparent outside, cropped to what is visible of it.
 *
 * @param {ImageBitmap} bitmap
 * @param {AlphaCrop[]} alphas at least one
 * @returns {Promise<Blob>} PNG
 */
export function cutOut(bitmap, alphas) {
  const x0 = Math.min(...alphas.map((alpha) => alpha.x0));
  const y0 = Math.min(...alphas.map((alpha) => alpha.y0));
  const width = Math.max(...alphas.map((alpha) => alpha.x0 + alpha.width)) - x0;
  const height = Math.max(...alphas.map((alpha) => alpha.y0 + alpha.height)) - y0;
  const together = new ImageData(width, height);
  for (const alpha of alphas) {
    for (let y = 0, from = 0; y < alpha.height; y++) {
      let to = 4 * ((alpha.y0 - y0 + y) * width + alpha.x0 - x0) + 3;
      for (let x = 0; x < alpha.width; x++, from++, to += 4) {
        if (alpha.data[from] > together.data[to]) together.data[to] = alpha.data[from];
      }
    }
  }
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.putImageData(together, 0, 0);
  context.globalCompositeOperation = "source-in";
  context.drawImage(bitmap, -x0, -y0);
  return canvas.convertToBlob({ type: "image/png" });
}

/** The masks as one image: white inside, black outside, in the image's size. @param {ExportedObject[]} objects @returns {Promise<Blob>} PNG */
export function maskPng(objects) {
  const [first, ...others] = objects.map(({ mask }) => rasterOfRle(mask.rle));
  for (const { data } of others) data.forEach((value, i) => (first.data[i] |= value));
  const masks = drawRaster(new OffscreenCanvas(first.width, first.height), first);
  const canvas = new OffscreenCanvas(masks.width, masks.height);
  const context = canvas.getContext("2d", { alpha: false });
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(masks, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

/**
 * An image of indices with a palette: 0 is the background. Where objects overlap, the later one counts. The names of the
 * indices are in the file's text "Labels", as JSON.
 *
 * @param {{width: number, height: number}} image
 * @param {ExportedObject[]} objects
 * @param {{name: string, colour: string}[]} labels names and colours by index, from 1 on
 * @param {(object: ExportedObject, position: number) => number} indexOf
 * @returns {Promise<Blob>} PNG
 * @throws {RangeError} if there are more labels than indices
 */
export function indexedPng({ width, height }, objects, labels, indexOf) {
  if (labels.length > MAX_INDEX) throw new RangeError(`An indexed PNG has ${MAX_INDEX} numbers, and there are ${labels.length} of them. Export fewer objects, or COCO.`);
  const data = new Uint8Array(width * height);
  objects.forEach((object, position) => {
    const mask = rasterOfRle(object.mask.rle).data;
    const index = indexOf(object, position);
    for (let i = 0; i < data.length; i++) if (mask[i]) data[i] = index;
  });
  const palette = [[0, 0, 0], ...labels.map(({ colour }) => channels(colour))];
  const names = JSON.stringify(Object.fromEntries(labels.map(({ name }, i) => [i + 1, name])));
  return palettePng({ width, height, data, palette: /** @type {[number, number, number][]} */ (palette), texts: { Labels: names } });
}
