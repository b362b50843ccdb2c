/**
 * Mouse, pen, touch and keyboard input on the stage: points, boxes, previews, zoom and pan.
 *
 * Mouse: a click adds a point, a drag draws a box. Shift or the right button adds a negative point. The wheel zooms.
 * Space or the middle button pans. Touch: tap and drag do the same, a long press adds a negative point, two fingers
 * zoom and pan. Keyboard: arrows move a crosshair, Enter clicks there.
 */

const CLICK_SLOP = { mouse: 4, pen: 6, touch: 10 }; // CSS pixels that the pointer may move during a click
const LONG_PRESS_MS = 500;
const WHEEL_ZOOM = 0.0016;
const KEY_STEP = 12;
const KEY_STEP_FAR = 60;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pointing {
  #canvas;
  #stage;
  #actions;
  /** @type {Map<number, {x: number, y: number}>} */
  #pointers = new Map();
  #gesture = null;
  #isSpaceDown = false;
  #crosshair = null;
  #longPress = 0;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {import("./stage.js").Stage} stage
   * @param {object} actions
   * @param {() => "include" | "exclude" | "move"} actions.tool
   * @param {(point: {x: number, y: number, label: 0 | 1}) => void} actions.point
   * @param {(box: [number, number, number, number]) => void} actions.box
   * @param {(position: {x: number, y: number} | null) => void} actions.hover
   */
  constructor(canvas, stage, actions) {
    this.#canvas = canvas;
    this.#stage = stage;
    this.#actions = actions;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", (event) => this.#cancel(event));
    canvas.addEventListener("pointerleave", () => this.#actions.hover(null));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => this.#moveCrosshair(null));
    addEventListener("keyup", (event) => event.key === " " && this.#space(false));
    addEventListener("blur", () => this.#space(false));
  }

  #position({ offsetX, offsetY }) {
    return { x: offsetX, y: offsetY };
  }

  #down(event) {
    if (!this.#stage.image) return;
    const at = this.#position(event);
    this.#canvas.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, at);
    this.#actions.hover(null);
    this.#moveCrosshair(null);
    if (this.#pointers.size === 2) {
      this.#end();
      this.#gesture = { kind: "pinch" };
      return;
    }
    if (this.#pointers.size > 2) return;
    if (event.button === 1 || this.#isSpaceDown || this.#actions.tool() === "move") {
      event.preventDefault();
      this.#gesture = { kind: "pan" };
      this.#canvas.classList.add("is-panning");
      return;
    }
    const isNegative = event.button === 2 || event.shiftKey || this.#actions.tool() === "exclude";
    this.#gesture = { kind: "press", from: at, isNegative, slop: CLICK_SLOP[event.pointerType] ?? CLICK_SLOP.mouse };
    if (event.pointerType === "touch") {
      this.#longPress = setTimeout(() => {
        this.#gesture = null;
        this.#point(at, true);
      }, LONG_PRESS_MS);
    }
  }

  #move(event) {
    const at = this.#position(event);
    const before = this.#pointers.get(event.pointerId);
    if (!before) {
      const canHover = event.pointerType !== "touch" && this.#actions.tool() === "include" && !this.#isSpaceDown;
      this.#actions.hover(canHover && this.#stage.isOnImage(at) ? this.#stage.locate(at) : null);
      return;
    }
    const gesture = this.#gesture;
    if (gesture?.kind === "pinch") this.#pinch(event.pointerId, at);
    this.#pointers.set(event.pointerId, at);
    if (gesture?.kind === "pan") this.#stage.pan(at.x - before.x, at.y - before.y);
    if (gesture?.kind === "press") {
      const isDrag = Math.hypot(at.x - gesture.from.x, at.y - gesture.from.y) > gesture.slop;
      if (!isDrag && !gesture.box) return;
      clearTimeout(this.#longPress);
      gesture.box = this.#box(gesture.from, at);
      this.#stage.draw({ draft: gesture.box });
    }
  }

  #up(event) {
    const at = this.#position(event);
    const gesture = this.#gesture;
    this.#pointers.delete(event.pointerId);
    if (gesture?.kind === "pinch") {
      if (this.#pointers.size === 0) this.#end();
      return; // the last finger of a pinch is not a click
    }
    this.#end();
    if (gesture?.kind !== "press") return;
    if (gesture.box) {
      const [x0, y0, x1, y1] = gesture.box;
      if (x1 - x0 >= 1 && y1 - y0 >= 1) this.#actions.box(gesture.box);
    } else if (this.#stage.isOnImage(at)) {
      this.#point(at, gesture.isNegative);
    }
  }

  #cancel(event) {
    this.#pointers.delete(event.pointerId);
    this.#end();
  }

  #end() {
    clearTimeout(this.#longPress);
    this.#gesture = null;
    this.#canvas.classList.remove("is-panning");
    this.#stage.draw({ draft: null });
  }

  #point(at, isNegative) {
    this.#actions.point({ ...this.#stage.locate(at), label: isNegative ? 0 : 1 });
  }

  #box(from, to) {
    const [a, b] = [this.#stage.locate(from), this.#stage.locate(to)];
    return [Math.min(a.x, b.x), Math.min(a.y, b.y), Math.max(a.x, b.x), Math.max(a.y, b.y)];
  }

  #pinch(moving, at) {
    const before = [...this.#pointers.values()];
    const after = [...this.#pointers].map(([id, position]) => (id === moving ? at : position));
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

  #key(event) {
    if (!this.#stage.image || event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = ARROWS[event.key];
    if (arrow) {
      const step = event.shiftKey ? KEY_STEP_FAR : KEY_STEP;
      const { clientWidth, clientHeight } = this.#canvas;
      const { view } = this.#stage;
      const at = this.#crosshair
        ? { x: this.#crosshair.x * view.scale + view.x, y: this.#crosshair.y * view.scale + view.y }
        : { x: clientWidth / 2 - step * arrow[0], y: clientHeight / 2 - step * arrow[1] };
      this.#moveCrosshair(this.#stage.locate({ x: at.x + step * arrow[0], y: at.y + step * arrow[1] }));
    } else if (event.key === "Enter" && this.#crosshair) {
      const isNegative = event.shiftKey || this.#actions.tool() === "exclude";
      this.#actions.point({ ...this.#crosshair, label: isNegative ? 0 : 1 });
    } else if (event.key === " ") {
      this.#space(true);
    } else {
      return;
    }
    event.preventDefault();
  }

  #moveCrosshair(position) {
    this.#crosshair = position;
    this.#stage.draw({ crosshair: position });
  }

  #space(isDown) {
    this.#isSpaceDown = isDown;
    this.#canvas.classList.toggle("can-pan", isDown);
  }
}
