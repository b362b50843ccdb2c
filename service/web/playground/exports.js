/**
 * Exports: what each button of the export menu writes.
 *
 * @typedef {import("../client/edgesam.js").Mask} Mask
 * @typedef {{name: string, className: string, colour: string, mask: Mask}} ExportedObject `className` is empty for an
 *   object without a class; `colour` is the one in which the object is drawn
 * @typedef {{name: string, width: number, height: number}} ImageInfo
 * @typedef {{file: File, image: ImageInfo, objects: ExportedObject[], cutOut: () => Promise<Blob>}} Work an image, its objects
 *   with a mask that is not empty, at least one, and their cut-out
 * @typedef {{tolerance: number}} ExportOptions tolerance of SVG outlines, in pixels
 */

import { cocoDataset, labelmeDocument, safeFileName, stemOf, yoloFiles } from "../client/annotations.js";
import { colourOf } from "./classes.js";
import { indexedPng, maskPng } from "./raster_exports.js";
import { svg } from "./svg.js";
import { zip } from "./zip.js";

const NO_CLASS = "object"; // the category of objects without a class
const NO_CLASS_COLOUR = "#9a9da3";

/**
 * The exports by the ids of their buttons: the end of the file name, and what makes the file. Formats that are for one
 * image become a ZIP archive of files when there are several images.
 *
 * @type {Record<string, {ending: string, ofImage?: (work: Work, all: Work[], options: ExportOptions) => Blob | Promise<Blob>,
 *   ofImages?: (works: Work[]) => Blob | Promise<Blob>}>}
 */
export const EXPORTS = {
  "save-cut-out": { ending: "-cutout.png", ofImage: ({ cutOut }) => cutOut() },
  "save-mask": { ending: "-mask.png", ofImage: ({ objects }) => maskPng(objects) },
  "save-coco": { ending: "-coco.json", ofImages: (works) => coco(works, "polygons") },
  "save-coco-rle": { ending: "-coco-rle.json", ofImages: (works) => coco(works, "rle") },
  "save-yolo": { ending: "-yolo.zip", ofImages: yolo },
  // labelme looks for this name beside the image.
  "save-labelme": { ending: ".json", ofImage: (work) => json(labelmeDocument(annotated(work))) },
  "save-svg": { ending: "-outline.svg", ofImage: ({ image, objects }, _, { tolerance }) => svg(image, objects, tolerance) },
  "save-index-objects": { ending: "-objects.png", ofImage: ({ image, objects }) => indexedPng(image, objects, objects, (_, i) => i + 1) },
  "save-index-classes": { ending: "-classes.png", ofImage: classIndices },
};

/**
 * An export of one or several images.
 *
 * @param {string} id of the button
 * @param {Work[]} works at least one
 * @param {ExportOptions} options
 * @returns {Promise<{name: string, blob: Blob}>} file name and content
 */
export async function exported(id, works, options) {
  const { ending, ofImage, ofImages } = EXPORTS[id];
  const stem = works.length === 1 ? stemOf(safeFileName(works[0].image.name)) : `${works.length}-images`;
  if (ofImages) return { name: `${stem}${ending}`, blob: await ofImages(works) };
  if (works.length === 1) return { name: `${stem}${ending}`, blob: await ofImage(works[0], works, options) };
  const files = new Map();
  const names = fileNames(works);
  for (const [i, work] of works.entries()) files.set(`${stemOf(names[i])}${ending}`, await ofImage(work, works, options));
  return { name: `${stem}${ending.replace(/\.[a-z]+$/, "") || "-labelme"}.zip`, blob: await zip(files) };
}

/** A COCO dataset. @param {Work[]} works @param {"polygons" | "rle"} segmentation */
function coco(works, segmentation) {
  return json(cocoDataset(works.map(annotated), { segmentation }));
}

/** A dataset for YOLO segmentation as a ZIP archive, with the images. @param {Work[]} works */
function yolo(works) {
  const names = fileNames(works);
  const texts = yoloFiles(works.map((work, i) => ({ ...annotated(work), name: names[i] })));
  return zip(new Map([...texts, ...works.map(({ file }, i) => /** @type {[string, File]} */ ([`images/${names[i]}`, file]))]));
}

/** The indices are those of the classes of all images. @param {Work} work @param {Work[]} all */
function classIndices({ image, objects }, all) {
  const names = [...new Set(all.flatMap((work) => work.objects.map(labelOf)))];
  const labels = names.map((name) => ({ name, colour: name === NO_CLASS ? NO_CLASS_COLOUR : colourOf(name) }));
  return indexedPng(image, objects, labels, (object) => names.indexOf(labelOf(object)) + 1);
}

/** @param {Work} work @returns {import("../client/annotations.js").AnnotatedImage} */
function annotated({ image: { name, width, height }, objects }) {
  return { name, width, height, objects: objects.map((object) => ({ label: labelOf(object), name: object.name, mask: object.mask })) };
}

/** @param {ExportedObject} object */
function labelOf({ className }) {
  return className || NO_CLASS;
}

/** Names for files whose stems differ, by image. @param {Work[]} works */
function fileNames(works) {
  const stems = new Set();
  return works.map(({ image }) => {
    const safe = safeFileName(image.name);
    const stem = stemOf(safe);
    const ending = safe.slice(stem.length);
    let free = stem;
    for (let number = 2; stems.has(free.toLowerCase()); number++) free = `${stem}-${number}`;
    stems.add(free.toLowerCase());
    return `${free}${ending}`;
  });
}

/** @param {object} document */
function json(document) {
  return new Blob([JSON.stringify(document)], { type: "application/json" });
}
