/**
 * What can be taken away: cut-out, mask, COCO annotations, SVG, and the request as a curl command.
 *
 * @typedef {{name: string, colour: string, mask: import("../client/edgesam.js").Mask}} Found
 * @typedef {{name: string, width: number, height: number}} Picture
 */

import { drawRaster, rasterOfRle } from "../client/masks.js";
import { outlines, pathOf } from "./outlines.js";

/**
 * The picture inside the masks, transparent outside, cut to their common box.
 *
 * @param {ImageBitmap} bitmap
 * @param {Found[]} found at least one whose mask is not empty
 * @returns {Promise<Blob>} PNG
 */
export function cutOut(bitmap, found) {
  const [x0, y0, x1, y1] = commonBox(found);
  const canvas = new OffscreenCanvas(x1 - x0, y1 - y0);
  const context = canvas.getContext("2d");
  context.drawImage(maskCanvas(found), -x0, -y0);
  context.globalCompositeOperation = "source-in";
  context.drawImage(bitmap, -x0, -y0);
  return canvas.convertToBlob({ type: "image/png" });
}

/** White inside, black outside, as large as the picture. @param {Found[]} found @returns {Promise<Blob>} PNG */
export function maskPng(found) {
  const masks = maskCanvas(found);
  const canvas = new OffscreenCanvas(masks.width, masks.height);
  const context = canvas.getContext("2d", { alpha: false });
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(masks, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

/** A COCO dataset of this picture, as pycocotools reads it. @param {Picture} picture @param {Found[]} found */
export function coco(picture, found) {
  const names = [...new Set(found.map(({ name }) => name))];
  const dataset = {
    info: { description: `Objects of ${picture.name}`, version: "1.0" },
    images: [{ id: 1, file_name: picture.name, width: picture.width, height: picture.height }],
    categories: names.map((name, i) => ({ id: i + 1, name, supercategory: "" })),
    annotations: found.map(({ name, mask }, i) => ({
      id: i + 1,
      image_id: 1,
      category_id: names.indexOf(name) + 1,
      segmentation: mask.rle,
      area: mask.area,
      bbox: [mask.box[0], mask.box[1], mask.box[2] - mask.box[0], mask.box[3] - mask.box[1]],
      iscrowd: 0,
      score: mask.score,
    })),
  };
  return new Blob([JSON.stringify(dataset, null, 2)], { type: "application/json" });
}

/** One path an object, exactly along the pixels. @param {Picture} picture @param {Found[]} found */
export function svg(picture, found) {
  const paths = found.map(({ name, colour, mask }) => {
    const path = pathOf(outlines(rasterOfRle(mask.rle)));
    return `  <path fill="${colour}" fill-rule="evenodd" d="${path}"><title>${escaped(name)}</title></path>\n`;
  });
  const { width, height } = picture;
  const head = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}">`;
  return new Blob([`${head}\n${paths.join("")}</svg>\n`], { type: "image/svg+xml" });
}

/**
 * The requests of a click for a terminal. A key is not written out.
 *
 * @param {object} request
 * @param {string} request.url of the service
 * @param {string} request.imageHash
 * @param {string} request.fileName
 * @param {{prompts: import("../client/edgesam.js").Prompt[]}} request.body of /segment, without the hash
 * @param {boolean} request.hasKey
 */
export function curl({ url, imageHash, fileName, body, hasKey }) {
  const key = hasKey ? ` -H "X-API-Key: $EDGESAM_KEY"` : "";
  const embed = `curl -s ${quoted(`${url}embed`)}${key} -F ${quoted(`image=@"${fileName.replaceAll('"', "")}"`)}`;
  // Logits to refine are longer than a command may be; with all the points here the answer is nearly the same.
  const prompts = body.prompts.map(({ mask_logits: _, ...prompt }) => prompt);
  const json = JSON.stringify({ image_hash: imageHash, ...body, prompts });
  const header = quoted(`X-Image-Hash: ${imageHash}`);
  return `${embed}\ncurl -s ${quoted(`${url}segment`)}${key} -H ${header} -d ${quoted(json)}\n`;
}

/** @param {Found[]} found @returns {import("../client/edgesam.js").Box} */
function commonBox(found) {
  const boxes = found.filter(({ mask }) => mask.area > 0).map(({ mask }) => mask.box);
  const side = (i, pick) => pick(...boxes.map((box) => box[i]));
  return [side(0, Math.min), side(1, Math.min), side(2, Math.max), side(3, Math.max)];
}

/** All masks together, white. */
function maskCanvas(found) {
  const [first, ...others] = found.map(({ mask }) => rasterOfRle(mask.rle));
  for (const { data } of others) data.forEach((value, i) => (first.data[i] |= value));
  return drawRaster(new OffscreenCanvas(first.width, first.height), first);
}

function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
