/**
 * Zoom and pan: where the image lies on the screen. Pure functions.
 *
 * @typedef {{scale: number, x: number, y: number}} View screen = image × scale + offset, in CSS pixels
 * @typedef {{width: number, height: number}} Size
 * @typedef {{x: number, y: number}} Position
 */

const MAX_SCALE = 24;
const MIN_SCALE_TO_FIT = 0.5; // smallest scale, as a share of the scale that fits the whole image
const MIN_VISIBLE_PIXELS = 48; // CSS pixels of the image that panning leaves on the screen

/** The view that shows the whole image in the middle. @param {Size} image @param {Size} stage @param {number} margin @returns {View} */
export function fitted(image, stage, margin) {
  const area = { width: Math.max(1, stage.width - 2 * margin), height: Math.max(1, stage.height - 2 * margin) };
  const scale = Math.min(area.width / image.width, area.height / image.height, 4);
  return centred(scale, image, stage);
}

/**
 * @param {View} view
 * @param {number} factor
 * @param {Position} at screen position that keeps its pixel of the image
 * @param {number} fit scale of the fitted view
 */
export function zoomed(view, factor, at, fit) {
  const max = Math.max(MAX_SCALE, fit);
  const scale = Math.min(max, Math.max(fit * MIN_SCALE_TO_FIT, view.scale * factor));
  const ratio = scale / view.scale;
  return { scale, x: at.x - (at.x - view.x) * ratio, y: at.y - (at.y - view.y) * ratio };
}

/** The view moved by (dx, dy) CSS pixels; a part of the image always stays visible. */
export function moved(view, dx, dy, image, stage) {
  const clamp = (offset, length, available) =>
    Math.min(available - MIN_VISIBLE_PIXELS, Math.max(MIN_VISIBLE_PIXELS - length, offset));
  return {
    scale: view.scale,
    x: clamp(view.x + dx, image.width * view.scale, stage.width),
    y: clamp(view.y + dy, image.height * view.scale, stage.height),
  };
}

/** @param {View} view @param {Position} at on the screen @returns {Position} on the image */
export function toImage(view, at) {
  return { x: (at.x - view.x) / view.scale, y: (at.y - view.y) / view.scale };
}

/** @param {View} view @param {Position} at on the image @returns {Position} on the screen */
export function toScreen(view, at) {
  return { x: at.x * view.scale + view.x, y: at.y * view.scale + view.y };
}

function centred(scale, image, stage) {
  return { scale, x: (stage.width - image.width * scale) / 2, y: (stage.height - image.height * scale) / 2 };
}
