/**
 * Masks in the annotation formats of other tools: COCO, YOLO segmentation and labelme.
 *
 * Formats with polygons get one polygon for each connected part, without holes; see `polygons`. Coordinates count corners
 * of pixels of the upright image. Objects whose mask is empty are left out.
 *
 * @typedef {{label: string, mask: import("./edgesam.js").Mask, name?: string}} AnnotatedObject the mask needs `rle`; `name` is
 *   that of this object beside its label, for formats that have a place for it
 * @typedef {{name: string, width: number, height: number, objects: AnnotatedObject[]}} AnnotatedImage `name` is the file
 *   name; the size is that of the upright image
 */

import { decodeCounts, rasterOfRle } from "./masks.js";
import { polygons } from "./outlines.js";

const LABELME_VERSION = "5.5.0"; // the format of labelme 5 and 6
const YOLO_DECIMALS = 7;

/**
 * A COCO dataset. Every annotation has `iscrowd` 0, as training and evaluation leave out annotations with 1.
 *
 * @param {AnnotatedImage[]} images
 * @param {{segmentation?: "polygons" | "rle"}} [options] "rle" writes uncompressed run lengths, which some tools cannot
 *   import
 */
export function cocoDataset(images, { segmentation = "polygons" } = {}) {
  const labels = labelsOf(images);
  let id = 0;
  return {
    info: { description: "Objects segmented with EdgeSAM", version: "1.0" },
    licenses: /** @type {object[]} */ ([]),
    images: images.map(({ name, width, height }, i) => ({ id: i + 1, file_name: name, width, height })),
    categories: labels.map((name, i) => ({ id: i + 1, name, supercategory: "" })),
    annotations: images.flatMap((image, i) =>
      annotated(image).map(({ label, mask, name }) => {
        const [x0, y0, x1, y1] = mask.box;
        return {
          id: ++id,
          image_id: i + 1,
          category_id: labels.indexOf(label) + 1,
          segmentation: segmentation === "rle" ? runLengths(mask) : polygonsOf(mask),
          area: mask.area,
          bbox: [x0, y0, x1 - x0, y1 - y0],
          iscrowd: 0,
          score: mask.score,
          ...(name !== undefined && { attributes: { name } }),
        };
      }),
    ),
  };
}

/**
 * The text files of a dataset for YOLO segmentation by their paths: `data.yaml` and one file of labels for each image.
 * The images belong beside them, under `images/` and their names.
 *
 * @param {AnnotatedImage[]} images
 * @returns {Map<string, string>}
 * @throws {RangeError} if a name does not fit a file, or if two names differ only in their endings
 */
export function yoloFiles(images) {
  const labels = labelsOf(images);
  const classes = labels.map((label, i) => `  ${i}: ${yamlText(label)}\n`);
  const files = new Map([["data.yaml", `train: images\nval: images\nnames:${classes.length ? "\n" : " {}\n"}${classes.join("")}`]]);
  for (const image of images) {
    if (safeFileName(image.name) !== image.name) throw new RangeError(`${JSON.stringify(image.name)} is not a file name.`);
    const path = `labels/${stemOf(image.name)}.txt`;
    if (files.has(path)) throw new RangeError(`Two images would have the labels ${path}.`);
    const lines = annotated(image).map(({ label, mask }) => {
      const numbers = joined(polygonsOf(mask)).map((value, i) => shareText(value / (i % 2 ? image.height : image.width)));
      return `${labels.indexOf(label)} ${numbers.join(" ")}\n`;
    });
    files.set(path, lines.join(""));
  }
  return files;
}

/**
 * A document of labelme. The parts of an object have the same `group_id`.
 *
 * @param {AnnotatedImage} image
 */
export function labelmeDocument(image) {
  const shapes = annotated(image).flatMap(({ label, mask, name = "" }, i) => {
    const parts = polygonsOf(mask);
    return parts.map((part) => ({
      label,
      points: pairs(part),
      group_id: parts.length > 1 ? i + 1 : null,
      description: name,
      shape_type: "polygon",
      flags: {},
      mask: null,
    }));
  });
  return {
    version: LABELME_VERSION,
    flags: {},
    shapes,
    imagePath: image.name,
    imageData: null,
    imageHeight: image.height,
    imageWidth: image.width,
  };
}

/** A name that every file system takes, without folders. @param {string} name */
export function safeFileName(name) {
  const safe = name.replace(/[\p{Cc}\p{Cs}<>:"/\\|?*]/gu, "_").replace(/^[. ]+|[. ]+$/g, "");
  return safe || "image";
}

/** A file name without its ending. @param {string} name */
export function stemOf(name) {
  return name.replace(/(.)\.[^.]*$/, "$1");
}

/** The labels of all objects, in order. @param {AnnotatedImage[]} images */
function labelsOf(images) {
  return [...new Set(images.flatMap((image) => annotated(image).map(({ label }) => label)))];
}

/** @param {AnnotatedImage} image */
function annotated({ objects }) {
  return objects.filter(({ mask }) => mask.area > 0);
}

/** @param {import("./edgesam.js").Mask} mask */
function rleOf({ rle }) {
  if (!rle) throw new TypeError("The mask has no run lengths: ask the service for the format rle.");
  return rle;
}

/** @param {import("./edgesam.js").Mask} mask */
function polygonsOf(mask) {
  return polygons(rasterOfRle(rleOf(mask)));
}

/** @param {import("./edgesam.js").Mask} mask */
function runLengths(mask) {
  const { size, counts } = rleOf(mask);
  return { size, counts: decodeCounts(counts) };
}

/** Points of a line. @param {number[]} line x, y, x, y, … @returns {[number, number][]} */
function pairs(line) {
  return Array.from({ length: line.length / 2 }, (_, i) => [line[2 * i], line[2 * i + 1]]);
}

/**
 * One line through all parts, since a line of YOLO's labels is one object. Cuts without width lead from the largest part
 * to the others and back, as Ultralytics joins the parts of a COCO annotation.
 *
 * @param {number[][]} parts
 */
function joined(parts) {
  const [main, ...others] = parts.map(pairs).sort((a, b) => area(b) - area(a));
  /** @type {[number, number][][]} */
  const excursions = main.map(() => []);
  for (const part of others) {
    const there = nearest(part, main[nearest(main, part[0])]);
    const here = nearest(main, part[there]);
    excursions[here].push(...part.slice(there), ...part.slice(0, there + 1), main[here]);
  }
  return main.flatMap((point, i) => [point, ...excursions[i]]).flat();
}

/** Twice the area inside, rounded to make the order of equal parts certain. @param {[number, number][]} points */
function area(points) {
  const sum = points.reduce((total, [x, y], i) => {
    const [nextX, nextY] = points[(i + 1) % points.length];
    return total + x * nextY - y * nextX;
  }, 0);
  return Math.round(Math.abs(sum) * 1000);
}

/** Index of the point that is nearest to a place. @param {[number, number][]} points @param {[number, number]} place */
function nearest(points, [x, y]) {
  let best = 0;
  const distance = (/** @type {[number, number]} */ [pointX, pointY]) => (pointX - x) * (pointX - x) + (pointY - y) * (pointY - y);
  for (let i = 1; i < points.length; i++) if (distance(points[i]) < distance(points[best])) best = i;
  return best;
}

/** A share from 0 to 1 in few characters. @param {number} share */
function shareText(share) {
  return share.toFixed(YOLO_DECIMALS).replace(/\.?0+$/, "");
}

/** A text in YAML's double quotes. Characters that YAML does not print are escaped. @param {string} text */
function yamlText(text) {
  const characters = Array.from(text, (character) => {
    if (character === '"' || character === "\\") return `\\${character}`;
    if (/^[\p{L}\p{M}\p{N}\p{P}\p{S} ]$/u.test(character)) return character;
    const code = /^\p{Cs}$/u.test(character) ? 0xfffd : /** @type {number} */ (character.codePointAt(0));
    return `\\U${code.toString(16).padStart(8, "0")}`;
  });
  return `"${characters.join("")}"`;
}
