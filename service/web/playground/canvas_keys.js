/**
 * Keys on the canvas. Arrows move a crosshair, or else what is selected. Enter clicks at the crosshair.
 *
 * Moves by keys become one change when the key is released.
 */

const STEP = 12; // CSS pixels
const STEP_FAR = 60;
const NUDGE = 2;
const NUDGE_FAR = 20;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class CanvasKeys {
  #canvas;
  #stage;
  #editing;
  #actions;
  #crosshair = /** @type {{x: number, y: number} | null} */ (null);

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {import("./stage.js").Stage} stage
   * @param {import("./editing.js").Editing} editing
   * @param {object} actions
   * @param {(position: {x: number, y: number}, isNegative: boolean) => void} actions.click Enter, in pixels of the image
   * @param {(position: {x: number, y: number}) => void} actions.move the crosshair moved
   * @param {() => boolean} actions.cancel Escape; returns whether there was anything to cancel
   */
  constructor(canvas, stage, editing, actions) {
    this.#canvas = canvas;
    this.#stage = stage;
    this.#editing = editing;
    this.#actions = actions;
    canvas.addEventListener("keydown", (event) => this.#down(event));
    canvas.addEventListener("keyup", (event) => event.key in ARROWS && editing.finish());
    canvas.addEventListener("blur", () => {
      editing.finish();
      this.hide();
    });
  }

  /** Remove the crosshair. */
  hide() {
    this.#show(null);
  }

  #down(event) {
    if (!this.#stage.image || event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = ARROWS[event.key];
    if (arrow && this.#editing.selected) this.#nudge(arrow, event.shiftKey);
    else if (arrow) this.#moveCrosshair(arrow, event.shiftKey);
    else if (event.key === "Enter" && this.#crosshair) this.#actions.click(this.#crosshair, event.shiftKey);
    else if (event.key === "." || event.key === ",") this.#selectNext(event.key === "." ? 1 : -1);
    else if (event.key === "Escape") {
      if (!this.#actions.cancel()) this.#canvas.blur(); // so that keyboard users can reach the rest of the page
    } else return;
    event.preventDefault();
  }

  #nudge([dx, dy], isFar) {
    const step = Math.max(1, (isFar ? NUDGE_FAR : NUDGE) / this.#stage.view.scale);
    this.#editing.nudge({ x: step * dx, y: step * dy });
  }

  #selectNext(step) {
    this.hide();
    this.#editing.selectNext(step);
  }

  #moveCrosshair([dx, dy], isFar) {
    const step = isFar ? STEP_FAR : STEP;
    const { clientWidth, clientHeight } = this.#canvas;
    const { view } = this.#stage;
    const at = this.#crosshair
      ? { x: this.#crosshair.x * view.scale + view.x, y: this.#crosshair.y * view.scale + view.y }
      : { x: clientWidth / 2 - step * dx, y: clientHeight / 2 - step * dy };
    this.#show(this.#stage.locate({ x: at.x + step * dx, y: at.y + step * dy }));
    this.#actions.move(/** @type {{x: number, y: number}} */ (this.#crosshair));
  }

  #show(position) {
    this.#crosshair = position;
    this.#stage.draw({ crosshair: position });
  }
}
