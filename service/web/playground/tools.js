/** The tools of the canvas, their buttons and keys: points, box, brush, eraser, move. */

import { BoxCorners } from "./box_corners.js";
import { Brush } from "./brush.js";
import { CanvasKeys } from "./canvas_keys.js";
import { Editing } from "./editing.js";
import { announce } from "./messages.js";
import { objectAt } from "./picking.js";
import { Pointing } from "./pointing.js";

/** @type {import("./pointing.js").Tool[]} */
const TOOLS = ["include", "exclude", "box", "brush", "eraser", "move"];

/**
 * Connect the canvas with the session.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {import("./session.js").Session} session
 * @param {import("./stage.js").Stage} stage
 * @param {import("./segmenter.js").Segmenter} segmenter
 * @param {{onPaint: () => void}} options `onPaint` is called when brush or eraser are chosen
 */
export function installTools(canvas, session, stage, segmenter, { onPaint }) {
  const element = (id) => document.getElementById(id);
  /** @type {import("./pointing.js").Tool} */
  let tool = "include";
  const editing = new Editing(session, stage, segmenter, {
    canvas,
    bar: element("handle-bar"),
    flip: element("flip-point"),
    remove: element("remove-handle"),
  });
  const brush = new Brush(session, stage, {
    bar: element("brush-bar"),
    slider: /** @type {HTMLInputElement} */ (element("brush-size")),
    label: element("brush-size-text"),
    refine: /** @type {HTMLButtonElement} */ (element("refine")),
  });
  const corners = new BoxCorners(stage, (box) => session.setBox(box));
  const keys = new CanvasKeys(canvas, stage, editing, {
    click: (position, isNegative) => {
      if (tool === "box") corners.click(position);
      else session.addPoint({ ...position, label: isNegative || tool === "exclude" ? 0 : 1 });
    },
    move: (position) => corners.follow(position),
    cancel: () => corners.cancel() || editing.cancel(),
  });
  new Pointing(canvas, stage, { editing, brush, corners }, {
    tool: () => tool,
    point: (point) => session.addPoint(point),
    box: (box) => session.setBox(box),
    hover: (position) => segmenter.hover(session.selected.prompt === null ? position : null),
    pick: (position) => pick(session, position),
    press: () => keys.hide(),
  });

  const choose = (name) => {
    tool = name;
    canvas.dataset.tool = name;
    for (const id of TOOLS) element(id).setAttribute("aria-pressed", String(id === name));
    const isPainting = name === "brush" || name === "eraser";
    corners.cancel();
    editing.setOn(!isPainting && name !== "move");
    brush.setOn(isPainting);
    if (name !== "include") segmenter.hover(null);
    if (isPainting) onPaint();
  };
  for (const name of TOOLS) element(name).addEventListener("click", () => choose(name));
  element("smaller-brush").addEventListener("click", () => brush.resize(-1));
  element("larger-brush").addEventListener("click", () => brush.resize(1));
  choose(tool);
}

/** Select the object whose mask is at a position. */
function pick(session, position) {
  const object = objectAt(session, position);
  if (!object) return;
  session.select(object.id);
  announce(`${object.name} selected.`);
}
