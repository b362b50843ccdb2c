/**
 * Exports: cut-out, mask, COCO annotations, SVG, and the request as a curl command.
 *
 * @typedef {{name: string, colour: string, mask: import("../client/edgesam.js").Mask}} ExportedObject
 * @typedef {{name: string, width: number, height: number}} ImageInfo
 */

import { drawRaster, rasterOfRle } from "../client/masks.js";
import { outlines, pathOf } from "./outlines.js";

/**
 * The image inside the masks, transparent outside, cropped to the masks' common box.
 *
 * @param {ImageBitmap} bitmap
 * @param {ExportedObject[]} objects at least one whose mask is not empty
 * @returns {Promise<Blob>} PNG
 */
export function cutOut(bitmap, objects) {
  const [x0, y0, x1, y1] = commonBox(objects);
  const canvas = new OffscreenCanvas(x1 - x0, y1 - y0);
  const context = canvas.getContext("2d");
  context.drawImage(maskCanvas(objects), -x0, -y0);
  context.globalCompositeOperation = "source-in";
  context.drawImage(bitmap, -x0, -y0);
  return canvas.convertToBlob({ type: "image/png" });
}

/** The masks as one image: white inside, black outside, in the image's size. @param {ExportedObject[]} objects @returns {Promise<Blob>} PNG */
export function maskPng(objects) {
  const masks = maskCanvas(objects);
  const canvas = new OffscreenCanvas(masks.width, masks.height);
  const context = canvas.getContext("2d", { alpha: false });
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(masks, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

/** A COCO dataset of this image, which pycocotools reads. @param {ImageInfo} image @param {ExportedObject[]} objects */
export function coco(image, objects) {
  const names = [...new Set(objects.map(({ name }) => name))];
  const dataset = {
    info: { description: `Objects of ${image.name}`, version: "1.0" },
    images: [{ id: 1, file_name: image.name, width: image.width, height: image.height }],
    categories: names.map((name, i) => ({ id: i + 1, name, supercategory: "" })),
    annotations: objects.map(({ name, mask }, i) => ({
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

/** One path per object, along the edges of its pixels. @param {ImageInfo} image @param {ExportedObject[]} objects */
export function svg(image, objects) {
  const paths = objects.map(({ name, colour, mask }) => {
    const path = pathOf(outlines(rasterOfRle(mask.rle)));
    return `  <path fill="${colour}" fill-rule="evenodd" d="${path}"><title>${escaped(name)}</title></path>\n`;
  });
  const { width, height } = image;
  const head = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}">`;
  return new Blob([`${head}\n${paths.join("")}</svg>\n`], { type: "image/svg+xml" });
}

/**
 * The requests of a click as curl commands. The API key is left out: `$EDGESAM_KEY` stands for it.
 *
 * @param {object} request
 * @param {string} request.url address of the service
 * @param {string} request.imageHash
 * @param {string} request.fileName
 * @param {{prompts: import("../client/edgesam.js").Prompt[]}} request.body request body of /segment, without the hash
 * @param {boolean} request.hasKey
 */
export function curl({ url, imageHash, fileName, body, hasKey }) {
  const key = hasKey ? ` -H "X-API-Key: $EDGESAM_KEY"` : "";
  const embed = `curl -s ${quoted(`${url}embed`)}${key} -F ${quoted(`image=@"${fileName.replaceAll('"', "")}"`)}`;
  // A mask's logits are too long for a command line. The prompt has all points, so its mask is nearly the same without.
  const prompts = body.prompts.map(({ mask_logits: _, ...prompt }) => prompt);
  const json = JSON.stringify({ image_hash: imageHash, ...body, prompts });
  const header = quoted(`X-Image-Hash: ${imageHash}`);
  return `${embed}\ncurl -s ${quoted(`${url}segment`)}${key} -H ${header} -d ${quoted(json)}\n`;
}

/** @param {ExportedObject[]} objects @returns {import("../client/edgesam.js").Box} */
function commonBox(objects) {
  const boxes = objects.filter(({ mask }) => mask.area > 0).map(({ mask }) => mask.box);
  const side = (i, pick) => pick(...boxes.map((box) => box[i]));
  return [side(0, Math.min), side(1, Math.min), side(2, Math.max), side(3, Math.max)];
}

/** A canvas with the union of all masks, in white. */
function maskCanvas(objects) {
  const [first, ...others] = objects.map(({ mask }) => rasterOfRle(mask.rle));
  for (const { data } of others) data.forEach((value, i) => (first.data[i] |= value));
  return drawRaster(new OffscreenCanvas(first.width, first.height), first);
}

function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
