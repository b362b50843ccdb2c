/** The list of objects in the panel beside the image. */

import { Candidates } from "./candidates.js";
import { shownColour } from "./classes.js";
import { MarkedObjects } from "./marked_objects.js";

const element = (row, selector) => /** @type {HTMLElement} */ (row.querySelector(selector));
const field = (row, selector) => /** @type {HTMLInputElement} */ (row.querySelector(selector));

export class Panel {
  #session;
  #list;
  #count;
  #eye;
  #rowTemplate;
  #candidates;
  #marked;
  /** @type {Map<number, HTMLElement>} */
  #rows = new Map();
  #revealedId = 0;

  /**
   * @param {import("./session.js").Session} session
   * @param {{list: HTMLElement, count: HTMLElement, eye: HTMLButtonElement, candidates: HTMLElement,
   *   rowTemplate: HTMLTemplateElement}} parts `eye` shows or hides all objects
   */
  constructor(session, { list, count, eye, candidates, rowTemplate }) {
    this.#session = session;
    this.#list = list;
    this.#count = count;
    this.#eye = eye;
    this.#rowTemplate = rowTemplate;
    this.#candidates = new Candidates(session, candidates);
    this.#marked = new MarkedObjects(session, list);
    this.#marked.onChange = () => this.update();
    eye.addEventListener("click", () => this.#toggleAll());
    session.addEventListener("change", () => this.update());
    this.update();
  }

  update() {
    const { objects, selected } = this.#session;
    for (const [id, row] of this.#rows) {
      if (objects.some((object) => object.id === id)) continue;
      row.remove();
      this.#rows.delete(id);
    }
    objects.forEach((object, i) => {
      const row = this.#rows.get(object.id) ?? this.#newRow(object.id);
      this.#updateRow(row, object, object === selected);
      this.#marked.updateRow(row, object);
      if (this.#list.children[i] !== row) this.#list.insertBefore(row, this.#list.children[i] ?? null);
    });
    this.#reveal(selected.id);
    this.#count.textContent = objects.length > 1 ? String(objects.length) : "";
    this.#eye.hidden = objects.length < 2;
    showEye(this.#eye, this.#areAllVisible, "all objects");
    this.#marked.update();
    this.#candidates.update();
  }

  /** @param {HTMLElement} row @param {import("./objects.js").SessionObject} object @param {boolean} isSelected */
  #updateRow(row, object, isSelected) {
    const { name, className } = object;
    row.style.setProperty("--colour", shownColour(object));
    row.classList.toggle("is-selected", isSelected);
    row.classList.toggle("is-hidden", !object.isVisible);
    row.classList.toggle("has-class", className !== "");
    element(row, ".object-select").setAttribute("aria-pressed", String(isSelected));
    element(row, ".object-select").setAttribute("aria-label", `Select ${name}`);
    element(row, ".object-remove").setAttribute("aria-label", `Remove ${name}`);
    element(row, ".object-note").textContent = note(object, this.#session.mask(object));
    showEye(element(row, ".object-eye"), object.isVisible, name);
    field(row, ".object-class").setAttribute("aria-label", `Class of ${name}`);
    for (const [selector, value] of [[".object-name", name], [".object-class", className]]) {
      if (field(row, selector) !== document.activeElement) field(row, selector).value = value;
    }
  }

  #newRow(id) {
    const row = /** @type {HTMLElement} */ (this.#rowTemplate.content.firstElementChild.cloneNode(true));
    this.#marked.connect(row, id);
    row.addEventListener("click", ({ target }) => {
      const isOther = /** @type {Element} */ (target).closest(".object-remove, .object-eye");
      if (!isOther && this.#session.selected.id !== id) this.#session.select(id);
    });
    element(row, ".object-remove").addEventListener("click", () => this.#session.removeObject(id));
    element(row, ".object-eye").addEventListener("click", () => {
      const { isVisible } = this.#session.objects.find((object) => object.id === id);
      this.#session.setVisible([id], !isVisible);
    });
    this.#onEdit(field(row, ".object-name"), id, (name) => this.#session.rename(id, name || `Object ${id}`));
    this.#onEdit(field(row, ".object-class"), id, (className) => this.#session.setClass([id], className));
    this.#rows.set(id, row);
    return row;
  }

  /** Scroll a long list to an object that has just been selected. The panel itself stays. @param {number} id */
  #reveal(id) {
    if (id === this.#revealedId) return;
    this.#revealedId = id;
    // With the next frame, which lays the rows out anyway.
    requestAnimationFrame(() => {
      const list = this.#list.getBoundingClientRect();
      const row = this.#rows.get(this.#revealedId)?.getBoundingClientRect();
      if (row && row.top < list.top) this.#list.scrollTop -= list.top - row.top;
      else if (row && row.bottom > list.bottom) this.#list.scrollTop += row.bottom - list.bottom;
    });
  }

  /** @param {HTMLInputElement} input @param {number} id @param {(text: string) => void} act */
  #onEdit(input, id, act) {
    input.addEventListener("change", () => act(input.value.trim()));
    input.addEventListener("focus", () => {
      if (this.#session.selected.id !== id) this.#session.select(id);
      input.select(); // what the user types replaces the old text
    });
    // The button of the mouse is released after the focus, and would set the cursor at its place.
    input.addEventListener("mousedown", (event) => {
      if (input === document.activeElement) return;
      event.preventDefault();
      input.focus();
    });
    input.addEventListener("keydown", (event) => event.key === "Enter" && input.blur());
  }

  get #areAllVisible() {
    return this.#session.objects.every(({ isVisible }) => isVisible);
  }

  #toggleAll() {
    this.#session.setVisible(this.#session.objects.map(({ id }) => id), !this.#areAllVisible);
  }
}

/** @param {HTMLElement} button @param {boolean} isVisible @param {string} what */
function showEye(button, isVisible, what) {
  button.setAttribute("aria-label", `${isVisible ? "Hide" : "Show"} ${what}`);
  button.querySelector("use").setAttribute("href", isVisible ? "#i-cut-out" : "#i-hidden");
}

function note(object, mask) {
  if (!object.prompt) return "";
  if (!mask) return "…";
  if (mask.area === 0) return "empty";
  const [height, width] = mask.rle.size;
  const part = (100 * mask.area) / (width * height);
  return `${part < 9.95 ? part.toFixed(1) : Math.round(part)} %`;
}
