/**
 * Draws points, boxes, handles, crosshair and brush cursor. They have one size on the screen at every zoom.
 *
 * @typedef {import("./viewport.js").View} View
 * @typedef {CanvasRenderingContext2D} Context with coordinates of CSS pixels
 */

import { boxHandles } from "./handles.js";
import { toScreen } from "./viewport.js";

const POSITIVE = "#17a765";
const NEGATIVE = "#e5383b";
const POINT_RADIUS = 8;
const HANDLE_SIDE = 9;

/** @param {Context} context @param {View} view @param {import("./prompts.js").SessionPrompt} prompt @param {string} colour */
export function drawPrompt(context, view, { box, points }, colour) {
  if (box) drawBox(context, view, box, colour);
  for (const point of points) drawPoint(context, toScreen(view, point), point.label === 1);
}

/** @param {Context} context @param {View} view @param {import("../client/edgesam.js").Box} box @param {string} colour */
export function drawBox(context, view, [x0, y0, x1, y1], colour) {
  const from = toScreen(view, { x: x0, y: y0 });
  const to = toScreen(view, { x: x1, y: y1 });
  context.beginPath();
  context.roundRect(from.x, from.y, to.x - from.x, to.y - from.y, 3);
  context.lineWidth = 3.5;
  context.strokeStyle = "rgb(0 0 0 / 40%)";
  context.stroke();
  context.lineWidth = 1.75;
  context.setLineDash([7, 5]);
  context.strokeStyle = colour;
  context.stroke();
  context.setLineDash([]);
}

/**
 * Draw the handles of a prompt's box, and a ring around what is selected.
 *
 * @param {Context} context
 * @param {View} view
 * @param {import("./prompts.js").SessionPrompt} prompt
 * @param {import("./handles.js").Handle | null} selected
 */
export function drawHandles(context, view, prompt, selected) {
  if (prompt.box) {
    for (const { x, y, edges } of boxHandles(prompt.box, view)) {
      const isOne = selected?.kind === "edge" && selected.edges.join() === edges.join();
      const isSelected = selected?.kind === "box" || isOne;
      const side = isOne ? HANDLE_SIDE + 4 : HANDLE_SIDE;
      context.beginPath();
      context.roundRect(x - side / 2, y - side / 2, side, side, 2);
      context.lineWidth = 1.5;
      context.strokeStyle = "rgb(0 0 0 / 70%)";
      context.stroke();
      context.fillStyle = isSelected ? "#ffd43b" : "#ffffff";
      context.fill();
    }
  }
  const point = selected?.kind === "point" ? prompt.points[selected.index] : null;
  if (!point) return;
  const { x, y } = toScreen(view, point);
  for (const [width, colour] of [[5, "rgb(0 0 0 / 60%)"], [3, "#ffd43b"]]) {
    context.beginPath();
    context.arc(x, y, POINT_RADIUS + 5, 0, 2 * Math.PI);
    context.lineWidth = Number(width);
    context.strokeStyle = String(colour);
    context.stroke();
  }
}

/** @param {Context} context @param {View} view @param {{x: number, y: number}} at on the image */
export function drawCrosshair(context, view, at) {
  const { x, y } = toScreen(view, at);
  for (const [width, colour] of [[4, "rgb(0 0 0 / 55%)"], [2, "#ffffff"]]) {
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 5 * dx, y + 5 * dy);
      context.lineTo(x + 16 * dx, y + 16 * dy);
    }
    context.lineWidth = Number(width);
    context.strokeStyle = String(colour);
    context.stroke();
  }
}

/** @param {Context} context @param {View} view @param {{x: number, y: number}} at on the image @param {number} radius pixels of the image */
export function drawBrush(context, view, at, radius) {
  const { x, y } = toScreen(view, at);
  for (const [width, colour] of [[3, "rgb(0 0 0 / 55%)"], [1.25, "#ffffff"]]) {
    context.beginPath();
    context.arc(x, y, Math.max(1, radius * view.scale), 0, 2 * Math.PI);
    context.lineWidth = Number(width);
    context.strokeStyle = String(colour);
    context.stroke();
  }
}

/** @param {Context} context @param {{x: number, y: number}} at on the screen @param {boolean} isPositive */
function drawPoint(context, { x, y }, isPositive) {
  const arm = 4;
  context.beginPath();
  context.arc(x, y, POINT_RADIUS + 2, 0, 2 * Math.PI);
  context.fillStyle = "rgb(0 0 0 / 35%)";
  context.fill();
  context.beginPath();
  context.arc(x, y, POINT_RADIUS, 0, 2 * Math.PI);
  context.fillStyle = isPositive ? POSITIVE : NEGATIVE;
  context.fill();
  context.lineWidth = 2;
  context.strokeStyle = "#ffffff";
  context.stroke();
  context.beginPath();
  context.moveTo(x - arm, y);
  context.lineTo(x + arm, y);
  if (isPositive) {
    context.moveTo(x, y - arm);
    context.lineTo(x, y + arm);
  }
  context.stroke();
}
