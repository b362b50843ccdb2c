/**
 * Mouse, pen, touch and wheel on the canvas: each press begins the gesture of the current tool.
 *
 * Mouse: a click adds a point, a drag draws a box or moves what it starts on. Shift or the right button adds a negative
 * point. The wheel zooms. Space or the middle button pans. Touch: tap and drag do the same, a long press adds a negative
 * point, two fingers zoom and pan.
 */

import { HandleDrag, Pan, Press } from "./gestures.js";

const WHEEL_ZOOM = 0.0016;

/** @typedef {"include" | "exclude" | "box" | "brush" | "eraser" | "move"} Tool */

export class Pointing {
  #canvas;
  #stage;
  #parts;
  #actions;
  /** @type {Map<number, {x: number, y: number}>} */
  #pointers = new Map();
  /** @type {import("./gestures.js").Gesture | null} */
  #gesture = null;
  #isPinch = false;
  #isSpaceDown = false;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {import("./stage.js").Stage} stage
   * @param {{editing: import("./editing.js").Editing, brush: import("./brush.js").Brush,
   *   corners: import("./box_corners.js").BoxCorners}} parts
   * @param {object} actions
   * @param {() => Tool} actions.tool
   * @param {(point: {x: number, y: number, label: 0 | 1}) => void} actions.point
   * @param {(box: [number, number, number, number]) => void} actions.box
   * @param {(position: {x: number, y: number} | null) => void} actions.hover
   * @param {(position: {x: number, y: number}) => void} actions.pick selects the object there
   * @param {() => void} actions.press any press on the canvas
   */
  constructor(canvas, stage, parts, actions) {
    this.#canvas = canvas;
    this.#stage = stage;
    this.#parts = parts;
    this.#actions = actions;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", (event) => this.#cancel(event));
    canvas.addEventListener("pointerleave", () => this.#hover(null));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => event.key === " " && this.#space(event));
    addEventListener("keyup", (event) => event.key === " " && this.#setSpace(false));
    addEventListener("blur", () => this.#setSpace(false));
  }

  #position({ offsetX, offsetY }) {
    return { x: offsetX, y: offsetY };
  }

  #down(event) {
    if (!this.#stage.image) return;
    const at = this.#position(event);
    this.#canvas.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, at);
    this.#hover(null);
    this.#actions.press();
    if (this.#pointers.size > 1) {
      this.#gesture?.cancel();
      this.#gesture = null;
      this.#isPinch = true;
    } else {
      this.#gesture = this.#begin(event, at);
    }
  }

  /** The gesture that a press begins. */
  #begin(event, at) {
    const { pointerType, button } = event;
    const { editing, corners } = this.#parts;
    const tool = this.#actions.tool();
    const pick = (to) => this.#stage.isOnImage(to) && this.#actions.pick(this.#stage.locate(to));
    if (button === 1 || this.#isSpaceDown || tool === "move") {
      event.preventDefault();
      return new Pan(this.#stage, this.#canvas, at, pointerType, tool === "move" ? pick : undefined);
    }
    if (tool === "brush" || tool === "eraser") return this.#stroke(event, at, tool === "eraser" || button === 2);
    if (event.altKey) return new Pan(this.#stage, this.#canvas, at, pointerType, pick);
    const click = this.#click(event, tool);
    const handle = corners.isOpen ? null : editing.handleAt(at, pointerType, tool);
    if (!handle) {
      const longPress = tool === "box" ? undefined : (to) => this.#point(to, true);
      return new Press(this.#stage, at, pointerType, { click, box: (box) => this.#box(box), longPress });
    }
    const isFlip = button === 2 || event.shiftKey;
    return new HandleDrag(this.#stage, editing, handle, at, pointerType, {
      click: (to) => {
        if (!editing.isClickable(handle, to, pointerType)) click(to);
        else if (isFlip && handle.kind === "point") editing.flip(handle);
        else editing.toggle(handle.kind === "edge" ? { kind: "box" } : handle);
      },
      longPress: (to) => (handle.kind === "point" ? editing.flip(handle) : this.#point(to, true)),
    });
  }

  /** What a click does with a tool that makes prompts. */
  #click({ button, shiftKey }, tool) {
    if (tool === "box") return (to) => this.#parts.corners.click(this.#stage.locate(to));
    const isNegative = button === 2 || shiftKey || tool === "exclude";
    return (to) => this.#stage.isOnImage(to) && this.#point(to, isNegative);
  }

  #stroke({ pointerType }, at, isErasing) {
    const { brush } = this.#parts;
    const hide = () => pointerType === "touch" && brush.hover(null);
    brush.start(this.#stage.unproject(at), isErasing);
    return {
      move: (to) => brush.move(this.#stage.unproject(to)),
      end: () => {
        brush.end();
        hide();
      },
      cancel: () => {
        brush.cancel();
        hide();
      },
    };
  }

  #move(event) {
    const at = this.#position(event);
    if (!this.#pointers.has(event.pointerId)) {
      if (event.pointerType !== "touch") this.#hover(at, event.pointerType);
      return;
    }
    if (this.#isPinch) this.#pinch(event.pointerId, at);
    this.#pointers.set(event.pointerId, at);
    this.#gesture?.move(at);
  }

  #up(event) {
    const gesture = this.#gesture;
    this.#gesture = null;
    this.#pointers.delete(event.pointerId);
    if (this.#pointers.size === 0) this.#isPinch = false; // the last finger of a pinch is not a click
    gesture?.end(this.#position(event));
  }

  #cancel(event) {
    this.#pointers.delete(event.pointerId);
    if (this.#pointers.size === 0) this.#isPinch = false;
    this.#gesture?.cancel();
    this.#gesture = null;
  }

  /** Show what a press at a position would do. @param {{x: number, y: number} | null} at */
  #hover(at, pointerType = "mouse") {
    const { editing, brush, corners } = this.#parts;
    const tool = this.#actions.tool();
    const position = at && this.#stage.isOnImage(at) && !this.#isSpaceDown ? this.#stage.locate(at) : null;
    const isPainting = tool === "brush" || tool === "eraser";
    if (isPainting) brush.hover(at && this.#stage.unproject(at));
    if (tool === "box" && at) corners.follow(this.#stage.locate(at));
    const handle = at && !isPainting && tool !== "move" ? editing.handleAt(at, pointerType, tool) : null;
    this.#canvas.dataset.over = handle ? (handle.kind === "edge" ? handle.edges.join(" ") : handle.kind) : "";
    this.#actions.hover(tool === "include" && (!handle || handle.kind === "box") ? position : null);
  }

  #point(at, isNegative) {
    this.#actions.point({ ...this.#stage.locate(at), label: isNegative ? 0 : 1 });
  }

  #box(box) {
    this.#parts.corners.cancel();
    this.#actions.box(box);
  }

  #pinch(moving, at) {
    const before = [...this.#pointers.values()];
    const after = [...this.#pointers].map(([id, position]) => (id === moving ? at : position));
    if (before.length < 2) return;
    const middle = ([a, b]) => ({ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 });
    const distance = ([a, b]) => Math.max(1, Math.hypot(a.x - b.x, a.y - b.y));
    const [from, to] = [middle(before), middle(after)];
    this.#stage.zoom(distance(after) / distance(before), to);
    this.#stage.pan(to.x - from.x, to.y - from.y);
  }

  #wheel(event) {
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1);
    const speed = event.ctrlKey ? 6 : 1; // browsers report a pinch on a trackpad as wheel events with Ctrl, in small steps
    this.#stage.zoom(Math.exp(-pixels * WHEEL_ZOOM * speed), this.#position(event));
  }

  #space(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.#setSpace(true);
  }

  #setSpace(isDown) {
    this.#isSpaceDown = isDown;
    this.#canvas.classList.toggle("can-pan", isDown);
  }
}
