/**
 * Editing the selected object's points and box: select, drag, move by keys, remove, switch between include and exclude.
 *
 * A drag is shown with previews of its mask, and becomes one change of the session at its end.
 *
 * @typedef {import("./handles.js").Handle} Handle
 * @typedef {import("./viewport.js").Position} Position
 */

import { anchorOf, dragged, handleAt, handlesOf, isClickable, nameOf } from "./handles.js";
import { announce } from "./messages.js";
import { edited, withBox } from "./prompts.js";
import { toScreen } from "./viewport.js";

export class Editing {
  #session;
  #stage;
  #segmenter;
  #bar;
  #selected = /** @type {Handle | null} */ (null);
  #prompt = /** @type {import("./prompts.js").SessionPrompt | null} */ (null);
  /** The drag that is under way: its handle, and how far it has come, in pixels of the image. */
  #drag = /** @type {{handle: Handle, x: number, y: number} | null} */ (null);
  /** The newest preview of the drag. */
  #mask = /** @type {import("../client/edgesam.js").Mask | null} */ (null);

  /**
   * @param {import("./session.js").Session} session
   * @param {import("./stage.js").Stage} stage
   * @param {import("./segmenter.js").Segmenter} segmenter answers previews of a drag
   * @param {{canvas: HTMLElement, bar: HTMLElement, flip: HTMLElement, remove: HTMLElement}} parts the canvas, and the small
   *   bar beside what is selected
   */
  constructor(session, stage, segmenter, { canvas, bar, flip, remove }) {
    this.#session = session;
    this.#stage = stage;
    this.#segmenter = segmenter;
    this.#bar = { bar, flip, remove };
    /** Whether another tool hides the handles. */
    this.isOn = true;
    session.addEventListener("change", () => this.#follow());
    stage.addEventListener("view", () => this.#placeBar());
    segmenter.onDraft = (mask) => {
      this.#mask = mask ?? (this.#drag && this.#mask);
      this.#draw();
    };
    const press = (act) => () => {
      act();
      canvas.focus({ preventScroll: true }); // the bar may have gone
    };
    flip.addEventListener("click", press(() => this.flip()));
    remove.addEventListener("click", press(() => this.remove()));
  }

  /** @returns {Handle | null} */
  get selected() {
    return this.#selected;
  }

  /** Show or hide the handles. @param {boolean} isOn */
  setOn(isOn) {
    this.isOn = isOn;
    if (!isOn) this.cancel();
    this.#draw();
  }

  /**
   * What a press at a screen position would take hold of.
   *
   * @param {Position} at
   * @param {string} pointerType
   * @param {"include" | "exclude" | "box"} tool
   */
  handleAt(at, pointerType, tool) {
    if (!this.isOn) return null;
    const isBoxTool = tool === "box"; // it draws new boxes inside another, and beside points
    const options = { pointerType, hasPoints: !isBoxTool, hasInside: !isBoxTool };
    return handleAt(this.#session.selected.prompt, this.#stage.view, at, options);
  }

  /** Whether a click there selects the handle. @param {Handle} handle @param {Position} at @param {string} pointerType */
  isClickable(handle, at, pointerType) {
    const { prompt } = this.#session.selected;
    return prompt !== null && isClickable(prompt, handle, this.#stage.view, at, pointerType);
  }

  /** @param {Handle | null} handle */
  select(handle) {
    this.#selected = handle;
    this.#prompt = this.#session.selected.prompt;
    this.#draw();
    if (!handle || !this.#prompt) return;
    const keys = handle.kind === "point" ? "Delete removes it, X switches between include and exclude." : "Delete removes it.";
    announce(`${nameOf(this.#prompt, handle)}, selected. Arrow keys move it. ${keys}`);
  }

  /** Select a handle, or deselect it. @param {Handle} handle */
  toggle(handle) {
    const isSelected = JSON.stringify(this.#selected) === JSON.stringify(handle);
    this.select(isSelected ? null : handle);
  }

  /** Select the next point or handle, or the previous one. @param {1 | -1} step */
  selectNext(step) {
    const handles = handlesOf(this.#session.selected.prompt);
    if (handles.length === 0) {
      announce("There is no point and no box yet.");
      return;
    }
    const key = JSON.stringify(this.#selected);
    const index = handles.findIndex((handle) => JSON.stringify(handle) === key);
    const next = index < 0 && step < 0 ? handles.length - 1 : (index + step + handles.length) % handles.length;
    this.select(handles[next]);
  }

  /** Begin to drag. @param {Handle} handle */
  start(handle) {
    this.#selected = handle;
    this.#prompt = this.#session.selected.prompt;
    this.#drag = { handle, x: 0, y: 0 };
  }

  /** @param {Position} by pixels of the image from the start of the drag */
  drag({ x, y }) {
    if (!this.#drag) return;
    Object.assign(this.#drag, { x, y });
    this.#segmenter.draft(this.#draft());
    this.#draw();
  }

  /** Move what is selected by keys; the session changes with `finish`. @param {Position} by pixels of the image */
  nudge(by) {
    if (!this.#selected) return;
    if (!this.#drag) this.start(this.#selected);
    this.drag({ x: this.#drag.x + by.x, y: this.#drag.y + by.y });
  }

  /** End the drag and ask for its mask. */
  finish() {
    const drag = this.#drag;
    if (!drag || !this.#prompt) return;
    const change = dragged(this.#prompt, drag.handle, drag, this.#stage.image);
    this.#stop();
    if (drag.x === 0 && drag.y === 0) return;
    this.#change(() => {
      if ("box" in change) this.#session.setBox(change.box);
      else if (drag.handle.kind === "point") this.#session.movePoint(drag.handle.index, change.points[drag.handle.index]);
    });
    this.#say("moved");
  }

  /** End the drag, or else deselect. @returns {boolean} whether there was anything to end */
  cancel() {
    const isBusy = this.#drag !== null || this.#selected !== null;
    if (this.#drag) this.#stop();
    else this.#selected = null;
    this.#draw();
    return isBusy;
  }

  /** Remove the selected point or box. @returns {boolean} whether there was one */
  remove() {
    const handle = this.#selected;
    if (!handle) return false;
    this.#stop();
    this.#selected = null;
    if (handle.kind === "point") this.#session.removePoint(handle.index);
    else this.#session.removeBox();
    announce(handle.kind === "point" ? "Point removed." : "Box removed.");
    return true;
  }

  /** Switch a point between include and exclude. @param {Handle | null} [handle] by default the selected one */
  flip(handle = this.#selected) {
    const { prompt } = this.#session.selected;
    if (handle?.kind !== "point" || !prompt?.points[handle.index]) return;
    this.#selected = handle;
    this.#change(() => this.#session.setPointLabel(handle.index, prompt.points[handle.index].label === 1 ? 0 : 1));
    this.#say("changed");
  }

  /** Change the session and keep the selection, which other changes end. */
  #change(change) {
    const selected = this.#selected;
    this.#selected = null;
    change();
    this.#selected = selected;
    this.#prompt = this.#session.selected.prompt;
    this.#draw();
  }

  /** Undo, another object and another image end drags and selections. */
  #follow() {
    if (this.#session.selected.prompt !== this.#prompt) {
      this.#prompt = this.#session.selected.prompt;
      this.#selected = null;
      if (this.#drag) this.#stop();
    }
    this.#draw();
  }

  #stop() {
    this.#drag = null;
    this.#segmenter.draft(null);
    this.#draw();
  }

  /** The prompt as the drag has made it so far. */
  #draft() {
    if (!this.#drag || !this.#prompt) return null;
    const change = dragged(this.#prompt, this.#drag.handle, this.#drag, this.#stage.image);
    return "box" in change ? withBox(this.#prompt, change.box) : edited(this.#prompt, change);
  }

  #draw() {
    const handles = { prompt: this.#draft(), mask: this.#drag && this.#mask, selected: this.#selected };
    this.#stage.draw({ handles: this.isOn ? handles : null });
    this.#placeBar();
  }

  #placeBar() {
    const { bar, flip, remove } = this.#bar;
    const { prompt } = this.#session.selected;
    bar.hidden = !this.isOn || this.#drag !== null || this.#selected === null || prompt === null;
    if (bar.hidden) return;
    const isPoint = this.#selected.kind === "point";
    flip.hidden = !isPoint;
    if (isPoint) flip.setAttribute("aria-label", prompt.points[this.#selected.index].label === 1 ? "Make it an exclude point" : "Make it an include point");
    remove.setAttribute("aria-label", isPoint ? "Remove the point" : "Remove the box");
    const { x, y } = toScreen(this.#stage.view, anchorOf(prompt, this.#selected));
    bar.style.setProperty("--x", `${Math.round(x)}px`);
    bar.style.setProperty("--y", `${Math.round(y)}px`);
  }

  #say(what) {
    const { prompt } = this.#session.selected;
    if (prompt && this.#selected) announce(`${nameOf(prompt, this.#selected)}, ${what}.`);
  }
}
