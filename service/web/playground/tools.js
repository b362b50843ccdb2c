/** The tools of the canvas, their buttons and keys: points, box, brush, eraser, move. */

import { BoxCorners } from "./box_corners.js";
import { Brush } from "./brush.js";
import { CanvasKeys } from "./canvas_keys.js";
import { Editing } from "./editing.js";
import { Hover } from "./hover.js";
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
 * @param {import("./find_all.js").FindAll} findAll takes clicks on objects that were found before
 * @param {{onPaint: () => void}} options `onPaint` is called when brush or eraser are chosen
 */
export function installTools(canvas, session, stage, segmenter, findAll, { onPaint }) {
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
  const hover = new Hover(session, stage, segmenter, findAll);
  const point = (position) => findAll.take(position) || session.addPoint(position);
  const setBox = (box) => {
    findAll.makeRoom();
    session.setBox(box);
  };
  const corners = new BoxCorners(stage, setBox);
  const keys = new CanvasKeys(canvas, stage, editing, {
    click: (position, isNegative) => {
      if (tool === "box") corners.click(position);
      else point({ ...position, label: isNegative || tool === "exclude" ? 0 : 1 });
    },
    move: (position) => {
      corners.follow(position);
      if (tool === "include") hover.showFound(position);
    },
    cancel: () => corners.cancel() || editing.cancel() || findAll.close(),
  });
  new Pointing(canvas, stage, { editing, brush, corners }, {
    tool: () => tool,
    point,
    box: setBox,
    hover: (position) => hover.show(position),
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
    if (name !== "include") hover.show(null);
    if (isPainting) onPaint();
  };
  for (const name of TOOLS) element(name).addEventListener("click", () => choose(name));
  element("smaller-brush").addEventListener("click", () => brush.resize(-1));
  element("larger-brush").addEventListener("click", () => brush.resize(1));
  canvas.addEventListener("keydown", (event) => {
    // Shift+Tab leaves the canvas, so that keyboard users can reach the rest of the page.
    if (event.key === "Tab" && !event.shiftKey && (hover.next() || nextMask(session))) event.preventDefault();
  });
  choose(tool);
}

/** Choose the next mask of an ambiguous click. @returns {boolean} whether there is one */
function nextMask(session) {
  const { masks, chosen } = session.candidates(session.selected);
  session.choose(chosen + 1);
  return masks.length > 1;
}

/** Select the object whose mask is at a position. */
function pick(session, position) {
  const object = objectAt(session, position);
  if (!object) return;
  session.select(object.id);
  announce(`${object.name} selected.`);
}
