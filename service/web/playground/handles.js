/**
 * What can be taken hold of on the image: points, the box, and the eight handles that resize the box. Pure functions.
 *
 * @typedef {{kind: "point", index: number} | {kind: "box"} | {kind: "edge", edges: [x: -1 | 0 | 1, y: -1 | 0 | 1]}} Handle `edges`
 *   are the sides of the box that move: -1 left or top, 1 right or bottom, 0 neither
 * @typedef {import("./prompts.js").SessionPrompt} SessionPrompt
 * @typedef {import("./viewport.js").View} View
 * @typedef {import("./viewport.js").Position} Position
 * @typedef {import("../client/edgesam.js").Box} Box
 */

import { toImage, toScreen } from "./viewport.js";

/** Distance from the middle of a point or a handle at which it is taken, in CSS pixels. */
const REACH = { mouse: 12, pen: 14, touch: 22 };
/** The same for a click or tap on the box's handles: beside them, clicks add points. */
const CLICK_REACH = { mouse: 6, pen: 7, touch: 11 };
const MIN_SIDE = 40; // CSS pixels; shorter sides have no handle in their middle
const EDGES = /** @type {[-1 | 0 | 1, -1 | 0 | 1][]} */ ([[-1, -1], [1, -1], [1, 1], [-1, 1], [0, -1], [1, 0], [0, 1], [-1, 0]]);
const NAMES = { "-1,-1": "top left corner", "1,-1": "top right corner", "1,1": "bottom right corner", "-1,1": "bottom left corner" };

/** The handles of a box with their middles on the screen, corners first. @param {Box} box @param {View} view */
export function boxHandles([x0, y0, x1, y1], view) {
  const from = toScreen(view, { x: x0, y: y0 });
  const to = toScreen(view, { x: x1, y: y1 });
  const fits = (edge, length) => edge !== 0 || length >= MIN_SIDE;
  return EDGES.filter(([x, y]) => fits(x, to.x - from.x) && fits(y, to.y - from.y)).map((edges) => ({
    edges,
    x: from.x + ((edges[0] + 1) / 2) * (to.x - from.x),
    y: from.y + ((edges[1] + 1) / 2) * (to.y - from.y),
  }));
}

/**
 * The handle at a screen position, for a drag that starts there.
 *
 * @param {SessionPrompt | null} prompt
 * @param {View} view
 * @param {Position} at
 * @param {{pointerType: string, hasPoints: boolean, hasInside: boolean}} options whether points and the inside of the box count
 * @returns {Handle | null}
 */
export function handleAt(prompt, view, at, { pointerType, hasPoints, hasInside }) {
  if (!prompt) return null;
  const reach = REACH[pointerType] ?? REACH.mouse;
  const index = hasPoints ? nearest(prompt.points.map((point) => toScreen(view, point)), at, reach) : -1;
  if (index >= 0) return { kind: "point", index };
  if (!prompt.box) return null;
  const handles = boxHandles(prompt.box, view);
  const edge = nearest(handles, at, reach);
  if (edge >= 0) return { kind: "edge", edges: handles[edge].edges };
  return hasInside && isInBox(prompt.box, toImage(view, at)) ? { kind: "box" } : null;
}

/** Whether a click selects a handle; elsewhere in the reach of a handle it adds a point. @param {SessionPrompt} prompt @param {Handle} handle @param {View} view @param {Position} at @param {string} pointerType */
export function isClickable(prompt, handle, view, at, pointerType) {
  if (handle.kind !== "edge" || !prompt.box) return handle.kind === "point";
  return nearest(boxHandles(prompt.box, view), at, CLICK_REACH[pointerType] ?? CLICK_REACH.mouse) >= 0;
}

/**
 * The points or the box after a drag.
 *
 * @param {SessionPrompt} prompt
 * @param {Handle} handle
 * @param {Position} by pixels of the image
 * @param {{width: number, height: number}} image
 * @returns {{points: import("./prompts.js").SessionPoint[]} | {box: Box}}
 */
export function dragged(prompt, handle, by, image) {
  if (handle.kind === "point") {
    const points = prompt.points.map((point, i) => (i === handle.index ? { ...point, ...shifted(point, by, image) } : point));
    return { points };
  }
  const box = /** @type {Box} */ (prompt.box);
  return { box: handle.kind === "box" ? movedBox(box, by, image) : resizedBox(box, handle.edges, by, image) };
}

/** All handles of a prompt that keys reach, in order. @param {SessionPrompt | null} prompt @returns {Handle[]} */
export function handlesOf(prompt) {
  const points = (prompt?.points ?? []).map((_, index) => /** @type {Handle} */ ({ kind: "point", index }));
  if (!prompt?.box) return points;
  return [...points, { kind: "box" }, ...EDGES.slice(0, 4).map((edges) => /** @type {Handle} */ ({ kind: "edge", edges }))];
}

/** The name of a handle for screen readers. @param {SessionPrompt} prompt @param {Handle} handle */
export function nameOf(prompt, handle) {
  if (handle.kind === "box") return "Box";
  if (handle.kind === "edge") return `Box, ${NAMES[handle.edges.join()] ?? "side"}`;
  const { label } = prompt.points[handle.index];
  return `Point ${handle.index + 1} of ${prompt.points.length}, ${label === 1 ? "include" : "exclude"}`;
}

/** Where the bar of a selected handle belongs: the point, or the middle of the box's upper side. @param {SessionPrompt} prompt @param {Handle} handle @returns {Position} on the image */
export function anchorOf(prompt, handle) {
  if (handle.kind === "point") return prompt.points[handle.index];
  const [x0, y0, x1] = /** @type {Box} */ (prompt.box);
  return { x: (x0 + x1) / 2, y: y0 };
}

/** Index of the nearest position within a distance, the last one of equals, or -1. */
function nearest(positions, { x, y }, reach) {
  let [best, least] = [-1, reach];
  positions.forEach((position, i) => {
    const distance = Math.hypot(position.x - x, position.y - y);
    if (distance <= least) [best, least] = [i, distance];
  });
  return best;
}

function isInBox([x0, y0, x1, y1], { x, y }) {
  return x0 <= x && x <= x1 && y0 <= y && y <= y1;
}

function shifted({ x, y }, by, { width, height }) {
  return { x: clamped(x + by.x, 0, width), y: clamped(y + by.y, 0, height) };
}

/** A box that moves within the image. One that hangs over stays where it was on that side. */
function movedBox([x0, y0, x1, y1], by, { width, height }) {
  const dx = clamped(by.x, Math.min(0, -x0), Math.max(0, width - x1));
  const dy = clamped(by.y, Math.min(0, -y0), Math.max(0, height - y1));
  return /** @type {Box} */ ([x0 + dx, y0 + dy, x1 + dx, y1 + dy].map(tenth));
}

/** A side that is dragged over the opposite side becomes that one. No side is shorter than a pixel. */
function resizedBox([x0, y0, x1, y1], [edgeX, edgeY], by, { width, height }) {
  const [left, right] = resizedSide(x0, x1, edgeX, by.x, width);
  const [top, bottom] = resizedSide(y0, y1, edgeY, by.y, height);
  return /** @type {Box} */ ([left, top, right, bottom]);
}

function resizedSide(from, to, edge, by, length) {
  if (edge === 0) return [from, to];
  const fixed = edge < 0 ? to : from;
  let free = clamped((edge < 0 ? from : to) + by, 0, length);
  if (Math.abs(free - fixed) < 1) free = clamped(fixed + edge, 0, length);
  return [Math.min(fixed, free), Math.max(fixed, free)];
}

function clamped(value, min, max) {
  return tenth(Math.min(max, Math.max(min, value)));
}

function tenth(value) {
  return Math.round(value * 10) / 10;
}
