/**
 * Where the picture lies on the screen: zoom and pan. Values only.
 *
 * @typedef {{scale: number, x: number, y: number}} View screen = picture × scale + offset, in CSS pixels
 * @typedef {{width: number, height: number}} Size
 * @typedef {{x: number, y: number}} Place
 */

const MOST_SCALE = 24;
const LEAST_OF_FIT = 0.5;

/** The whole picture, in the middle. @param {Size} picture @param {Size} stage @param {number} margin @returns {View} */
export function fitted(picture, stage, margin) {
  const room = { width: Math.max(1, stage.width - 2 * margin), height: Math.max(1, stage.height - 2 * margin) };
  const scale = Math.min(room.width / picture.width, room.height / picture.height, 4);
  return centred(scale, picture, stage);
}

/** @param {View} view @param {number} factor @param {Place} at stays where it is @param {number} fit scale */
export function zoomed(view, factor, at, fit) {
  const most = Math.max(MOST_SCALE, fit);
  const scale = Math.min(most, Math.max(fit * LEAST_OF_FIT, view.scale * factor));
  const ratio = scale / view.scale;
  return { scale, x: at.x - (at.x - view.x) * ratio, y: at.y - (at.y - view.y) * ratio };
}

/** Moved, but never so far that the picture is out of sight. */
export function moved(view, dx, dy, picture, stage) {
  const keep = 48;
  const clamp = (offset, length, room) => Math.min(room - keep, Math.max(keep - length, offset));
  return {
    scale: view.scale,
    x: clamp(view.x + dx, picture.width * view.scale, stage.width),
    y: clamp(view.y + dy, picture.height * view.scale, stage.height),
  };
}

/** @param {View} view @param {Place} at on the screen @returns {Place} on the picture */
export function toPicture(view, at) {
  return { x: (at.x - view.x) / view.scale, y: (at.y - view.y) / view.scale };
}

/** @param {View} view @param {Place} at on the picture @returns {Place} on the screen */
export function toScreen(view, at) {
  return { x: at.x * view.scale + view.x, y: at.y * view.scale + view.y };
}

function centred(scale, picture, stage) {
  return { scale, x: (stage.width - picture.width * scale) / 2, y: (stage.height - picture.height * scale) / 2 };
}
