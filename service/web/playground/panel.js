/** The panel beside the image: the list of objects, and the candidate masks of the last click. */

import { drawRaster, rasterOfRle } from "../client/masks.js";

const THUMB_SIDE = 72;
const CANDIDATE_NAMES = ["Best guess", "Second", "Third", "Fourth"];

export class Panel {
  #session;
  #list;
  #candidates;
  #rowTemplate;
  /** @type {Map<number, HTMLElement>} */
  #rows = new Map();
  #shown = null;

  /**
   * @param {import("./session.js").Session} session
   * @param {{list: HTMLElement, candidates: HTMLElement, rowTemplate: HTMLTemplateElement}} parts
   */
  constructor(session, { list, candidates, rowTemplate }) {
    this.#session = session;
    this.#list = list;
    this.#candidates = candidates;
    this.#rowTemplate = rowTemplate;
    candidates.addEventListener("keydown", (event) => this.#key(event));
    session.addEventListener("change", () => this.update());
    this.update();
  }

  update() {
    this.#updateRows();
    this.#updateCandidates();
  }

  #updateRows() {
    const { objects, selected } = this.#session;
    for (const [id, row] of this.#rows) {
      if (objects.some((object) => object.id === id)) continue;
      row.remove();
      this.#rows.delete(id);
    }
    for (const object of objects) {
      const row = this.#rows.get(object.id) ?? this.#newRow(object.id);
      const mask = this.#session.mask(object);
      row.style.setProperty("--colour", object.colour);
      row.classList.toggle("is-selected", object === selected);
      row.querySelector(".object-select").setAttribute("aria-pressed", String(object === selected));
      row.querySelector(".object-select").setAttribute("aria-label", `Select ${object.name}`);
      row.querySelector(".object-remove").setAttribute("aria-label", `Remove ${object.name}`);
      row.querySelector(".object-note").textContent = note(object, mask);
      const name = row.querySelector(".object-name");
      if (name !== document.activeElement) name.value = object.name;
      this.#list.append(row); // keeps the session's order; a row that is already in place stays
    }
  }

  #newRow(id) {
    const row = this.#rowTemplate.content.firstElementChild.cloneNode(true);
    row.addEventListener("click", ({ target }) => {
      if (!target.closest(".object-remove") && this.#session.selected.id !== id) this.#session.select(id);
    });
    row.querySelector(".object-remove").addEventListener("click", () => this.#session.removeObject(id));
    const name = row.querySelector(".object-name");
    name.addEventListener("change", () => this.#session.rename(id, name.value.trim() || `Object ${id}`));
    name.addEventListener("focus", () => this.#session.selected.id !== id && this.#session.select(id));
    name.addEventListener("keydown", (event) => event.key === "Enter" && name.blur());
    this.#rows.set(id, row);
    return row;
  }

  #updateCandidates() {
    const { masks, chosen } = this.#session.candidates(this.#session.selected);
    const isOpen = masks.length > 1;
    this.#candidates.closest("section").hidden = !isOpen;
    if (masks !== this.#shown) {
      const buttons = isOpen ? masks.map((mask, i) => this.#newCandidate(mask, i)) : [];
      this.#candidates.replaceChildren(...buttons);
      this.#shown = masks;
    }
    [...this.#candidates.children].forEach((button, i) => {
      button.setAttribute("aria-checked", String(i === chosen));
      button.tabIndex = i === chosen ? 0 : -1;
    });
  }

  #newCandidate(mask, i) {
    const button = document.createElement("button");
    const canvas = document.createElement("canvas");
    const name = document.createElement("span");
    const [height, width] = mask.rle.size;
    const scale = THUMB_SIDE / Math.max(width, height);
    const size = { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
    button.type = "button";
    button.className = "candidate";
    button.setAttribute("role", "radio");
    button.setAttribute("aria-label", `${CANDIDATE_NAMES[i] ?? `Mask ${i + 1}`}, score ${percent(mask.score)}`);
    name.textContent = percent(mask.score);
    button.append(drawRaster(canvas, rasterOfRle(mask.rle, size), [47, 123, 255]), name);
    button.addEventListener("click", () => this.#session.choose(i));
    return button;
  }

  #key(event) {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.#session.choose(this.#session.candidates(this.#session.selected).chosen + step);
    this.#candidates.querySelector("[aria-checked=true]")?.focus();
  }
}

function note(object, mask) {
  if (!object.prompt) return "";
  if (!mask) return "…";
  if (mask.area === 0) return "empty";
  const [height, width] = mask.rle.size;
  const part = (100 * mask.area) / (width * height);
  return `${part < 9.95 ? part.toFixed(1) : Math.round(part)} %`;
}

function percent(score) {
  return `${Math.round(100 * score)} %`;
}
