/**
 * Exports: cut-out, mask, annotations, SVG, and the request as a curl command.
 *
 * @typedef {{name: string, colour: string, mask: import("../client/edgesam.js").Mask}} ExportedObject
 * @typedef {{name: string, width: number, height: number}} ImageInfo
 * @typedef {{file: File, bitmap: ImageBitmap, image: ImageInfo, objects: ExportedObject[]}} Work the image that is open,
 *   and the objects to export
 */

import { cocoDataset, labelmeDocument, safeFileName, yoloFiles } from "../client/annotations.js";
import { drawRaster, rasterOfRle } from "../client/masks.js";
import { outlines, pathOf } from "../client/outlines.js";
import { zip } from "./zip.js";

/**
 * The exports that are downloaded, by the ids of their buttons: the end of the file name, and what makes the file.
 *
 * @type {Record<string, {ending: string, make: (work: Work) => Blob | Promise<Blob>}>}
 */
export const EXPORTS = {
  "save-cut-out": { ending: "-cutout.png", make: ({ bitmap, objects }) => cutOut(bitmap, objects) },
  "save-mask": { ending: "-mask.png", make: ({ objects }) => maskPng(objects) },
  "save-svg": { ending: "-outline.svg", make: ({ image, objects }) => svg(image, objects) },
  "save-coco": { ending: "-coco.json", make: ({ image, objects }) => coco(image, objects, "polygons") },
  "save-coco-rle": { ending: "-coco-rle.json", make: ({ image, objects }) => coco(image, objects, "rle") },
  "save-yolo": { ending: "-yolo.zip", make: ({ file, image, objects }) => yolo(file, image, objects) },
  // labelme looks for this name beside the image.
  "save-labelme": { ending: ".json", make: ({ image, objects }) => labelme(image, objects) },
};

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
function maskPng(objects) {
  const masks = maskCanvas(objects);
  const canvas = new OffscreenCanvas(masks.width, masks.height);
  const context = canvas.getContext("2d", { alpha: false });
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(masks, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

/** A COCO dataset of this image. @param {ImageInfo} image @param {ExportedObject[]} objects @param {"polygons" | "rle"} segmentation */
function coco(image, objects, segmentation) {
  return json(cocoDataset([annotated(image, objects)], { segmentation }));
}

/** A document of labelme. @param {ImageInfo} image @param {ExportedObject[]} objects */
function labelme(image, objects) {
  return json(labelmeDocument(annotated(image, objects)));
}

/** A dataset for YOLO segmentation as a ZIP archive, with the image. @param {File} file @param {ImageInfo} image @param {ExportedObject[]} objects */
function yolo(file, image, objects) {
  const name = safeFileName(image.name);
  return zip(new Map([...yoloFiles([annotated({ ...image, name }, objects)]), [`images/${name}`, file]]));
}

/** One path per object, along the edges of its pixels. @param {ImageInfo} image @param {ExportedObject[]} objects */
function svg(image, objects) {
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
 * @param {{prompts: import("../client/edgesam.js").Prompt[], model?: string}} request.body request body of /segment, without
 *   the hash
 * @param {boolean} request.hasKey
 */
export function curl({ url, imageHash, fileName, body, hasKey }) {
  const key = hasKey ? ` -H "X-API-Key: $EDGESAM_KEY"` : "";
  const query = body.model ? `?model=${encodeURIComponent(body.model)}` : "";
  const embed = `curl -s ${quoted(`${url}embed${query}`)}${key} -F ${quoted(`image=@"${fileName.replaceAll('"', "")}"`)}`;
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

/** @param {ImageInfo} image @param {ExportedObject[]} objects @returns {import("../client/annotations.js").AnnotatedImage} */
function annotated({ name, width, height }, objects) {
  return { name, width, height, objects: objects.map(({ name: label, mask }) => ({ label, mask })) };
}

/** @param {object} document */
function json(document) {
  return new Blob([JSON.stringify(document)], { type: "application/json" });
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

/** A text for XML, which forbids most control characters. */
function escaped(text) {
  return text.replace(/[\p{Cc}\p{Cs}\ufffe\uffff]/gu, "\ufffd").replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
