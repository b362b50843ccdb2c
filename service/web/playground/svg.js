/**
 * SVG drawings of masks.
 *
 * @typedef {import("./exports.js").ExportedObject} ExportedObject
 */

import { rasterOfRle } from "../client/masks.js";
import { outlines, pathOf } from "../client/outlines.js";
import { smoothOutline } from "./smooth_outlines.js";

/**
 * A drawing with one path per object.
 *
 * @param {{width: number, height: number}} image
 * @param {ExportedObject[]} objects
 * @param {number} tolerance of the outlines, in pixels; 0 draws them along the edges of the pixels
 */
export function svg({ width, height }, objects, tolerance) {
  const paths = objects.map(({ name, className, colour, mask }) => {
    const { path } = outline(mask, tolerance);
    const label = className ? ` data-class="${escaped(className)}"` : "";
    return `  <path fill="${colour}" fill-rule="evenodd"${label} d="${path}"><title>${escaped(name)}</title></path>\n`;
  });
  const head = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}">`;
  return new Blob([`${head}\n${paths.join("")}</svg>\n`], { type: "image/svg+xml" });
}

/** The number of corners of a drawing. @param {ExportedObject[]} objects @param {number} tolerance pixels */
export function cornersOf(objects, tolerance) {
  return objects.reduce((sum, { mask }) => sum + outline(mask, tolerance).corners, 0);
}

/** @param {import("../client/edgesam.js").Mask} mask @param {number} tolerance @returns {{path: string, corners: number}} */
function outline(mask, tolerance) {
  if (tolerance > 0) return smoothOutline(mask, tolerance);
  const lines = outlines(rasterOfRle(mask.rle));
  return { path: pathOf(lines), corners: lines.reduce((sum, line) => sum + line.length / 2, 0) };
}

/** A text for XML, which forbids most control characters. */
function escaped(text) {
  const printable = text.replace(/[\p{Cc}\p{Cs}\ufffe\uffff]/gu, "\ufffd");
  return printable.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}
