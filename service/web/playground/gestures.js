/**
 * What one pointer does from press to release. A gesture has `move`, `end` and `cancel`; `cancel` undoes it.
 *
 * @typedef {import("./viewport.js").Position} Position CSS pixels of the canvas
 * @typedef {import("./stage.js").Stage} Stage
 * @typedef {{move: (at: Position) => void, end: (at: Position) => void, cancel: () => void}} Gesture
 */

const SLOP = { mouse: 4, pen: 6, touch: 10 }; // CSS pixels that the pointer may move during a click
const LONG_PRESS_MS = 500;

/** Tells a click from a drag. */
class Movement {
  #slop;

  /** @param {Position} from @param {string} pointerType */
  constructor(from, pointerType) {
    this.from = from;
    this.isDrag = false;
    this.#slop = SLOP[pointerType] ?? SLOP.mouse;
  }

  /** @param {Position} at @returns {boolean} whether it is a drag by now */
  update(at) {
    this.isDrag ||= Math.hypot(at.x - this.from.x, at.y - this.from.y) > this.#slop;
    return this.isDrag;
  }
}

/** Moves the image. A click without movement may do something else. @implements {Gesture} */
export class Pan {
  #stage;
  #canvas;
  #movement;
  #last;
  #click;

  /** @param {Stage} stage @param {HTMLCanvasElement} canvas @param {Position} from @param {string} pointerType @param {(at: Position) => void} [click] */
  constructor(stage, canvas, from, pointerType, click = () => {}) {
    this.#stage = stage;
    this.#canvas = canvas;
    this.#movement = new Movement(from, pointerType);
    this.#last = from;
    this.#click = click;
    canvas.classList.add("is-panning");
  }

  move(at) {
    this.#movement.update(at);
    this.#stage.pan(at.x - this.#last.x, at.y - this.#last.y);
    this.#last = at;
  }

  end(at) {
    this.cancel();
    if (!this.#movement.isDrag) this.#click(at);
  }

  cancel() {
    this.#canvas.classList.remove("is-panning");
  }
}

/** A click, or a drag that draws a box. A long press is a click of its own. @implements {Gesture} */
export class Press {
  #stage;
  #movement;
  #actions;
  #timer;
  #box = /** @type {[number, number, number, number] | null} */ (null);
  #isOver = false;

  /**
   * @param {Stage} stage
   * @param {Position} from
   * @param {string} pointerType
   * @param {{click: (at: Position) => void, box: (box: [number, number, number, number]) => void, longPress?: (at: Position) => void}} actions
   */
  constructor(stage, from, pointerType, actions) {
    this.#stage = stage;
    this.#movement = new Movement(from, pointerType);
    this.#actions = actions;
    this.#timer = afterLongPress(pointerType, actions.longPress && (() => this.#endEarly(from)));
  }

  move(at) {
    if (this.#isOver || !this.#movement.update(at)) return;
    clearTimeout(this.#timer);
    this.#box = boxBetween(this.#stage, this.#movement.from, at);
    this.#stage.draw({ draft: this.#box });
  }

  end(at) {
    const box = this.#box;
    this.cancel();
    if (this.#isOver) return;
    if (!this.#movement.isDrag) this.#actions.click(at);
    else if (isBox(box)) this.#actions.box(box);
  }

  cancel() {
    clearTimeout(this.#timer);
    if (this.#box) this.#stage.draw({ draft: null });
    this.#box = null;
  }

  #endEarly(at) {
    this.#isOver = true;
    this.#actions.longPress(at);
  }
}

/** A press on a point or on a handle: a drag moves it. @implements {Gesture} */
export class HandleDrag {
  #stage;
  #movement;
  #editing;
  #handle;
  #actions;
  #timer;
  #isStarted = false;
  #isOver = false;

  /**
   * @param {Stage} stage
   * @param {import("./editing.js").Editing} editing
   * @param {import("./handles.js").Handle} handle
   * @param {Position} from
   * @param {string} pointerType
   * @param {{click: (at: Position) => void, longPress: (at: Position) => void}} actions
   */
  constructor(stage, editing, handle, from, pointerType, actions) {
    this.#stage = stage;
    this.#editing = editing;
    this.#handle = handle;
    this.#movement = new Movement(from, pointerType);
    this.#actions = actions;
    this.#timer = afterLongPress(pointerType, () => {
      this.#isOver = true;
      actions.longPress(from);
    });
  }

  move(at) {
    if (this.#isOver || !this.#movement.update(at)) return;
    clearTimeout(this.#timer);
    if (!this.#isStarted) this.#editing.start(this.#handle);
    this.#isStarted = true;
    const [from, to] = [this.#stage.unproject(this.#movement.from), this.#stage.unproject(at)];
    this.#editing.drag({ x: to.x - from.x, y: to.y - from.y });
  }

  end(at) {
    clearTimeout(this.#timer);
    if (this.#isOver) return;
    if (this.#isStarted) this.#editing.finish();
    else this.#actions.click(at);
  }

  cancel() {
    clearTimeout(this.#timer);
    if (this.#isStarted) this.#editing.cancel();
  }
}

/** @param {Stage} stage @param {Position} from @param {Position} to @returns {[number, number, number, number]} in pixels of the image */
export function boxBetween(stage, from, to) {
  const [a, b] = [stage.locate(from), stage.locate(to)];
  return [Math.min(a.x, b.x), Math.min(a.y, b.y), Math.max(a.x, b.x), Math.max(a.y, b.y)];
}

/** Whether a box has an area that a mask could fill. @param {[number, number, number, number] | null} box */
export function isBox(box) {
  return box !== null && box[2] - box[0] >= 1 && box[3] - box[1] >= 1;
}

function afterLongPress(pointerType, act) {
  return act && pointerType === "touch" ? setTimeout(act, LONG_PRESS_MS) : 0;
}
