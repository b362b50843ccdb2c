/** The list of classes in the panel: names, colours, and how many objects of all images have each. */

import { classes } from "./classes.js";

export class ClassListPanel {
  #parts;
  #sessions;
  #isRenaming = false;
  /** @type {Map<string, HTMLElement>} */
  #rows = new Map();

  /**
   * @param {{section: HTMLElement, list: HTMLElement, suggestions: HTMLElement, rowTemplate: HTMLTemplateElement}} parts
   *   `suggestions` is the datalist of the fields for a class
   * @param {() => import("./session.js").Session[]} sessions of all open images
   */
  constructor(parts, sessions) {
    this.#parts = parts;
    this.#sessions = sessions;
    classes.addEventListener("change", () => this.update());
    this.update();
  }

  update() {
    if (this.#isRenaming) return; // some objects still have the old name, which would become a class again
    const { section, list, suggestions } = this.#parts;
    const counts = this.#counts();
    classes.include(counts.keys());
    const all = classes.all();
    section.hidden = all.length === 0;
    for (const [name, row] of this.#rows) {
      if (all.some((each) => each.name === name)) continue;
      row.remove();
      this.#rows.delete(name);
    }
    all.forEach(({ name, colour }, i) => {
      const row = this.#rows.get(name) ?? this.#newRow(name);
      if (list.children[i] !== row) list.insertBefore(row, list.children[i] ?? null);
      const [chosen, field] = row.querySelectorAll("input");
      chosen.value = colour;
      chosen.setAttribute("aria-label", `Colour of ${name}`);
      if (field !== document.activeElement) field.value = name;
      row.querySelector(".class-count").textContent = String(counts.get(name) ?? 0);
      row.querySelector("button").setAttribute("aria-label", `Remove the class ${name}`);
    });
    suggestions.replaceChildren(...all.map(({ name }) => new Option(name, name)));
  }

  /** Objects of all images by their class. @returns {Map<string, number>} */
  #counts() {
    const counts = new Map();
    for (const { className } of this.#sessions().flatMap(({ objects }) => objects)) {
      if (className) counts.set(className, (counts.get(className) ?? 0) + 1);
    }
    return counts;
  }

  #newRow(name) {
    const row = /** @type {HTMLElement} */ (this.#parts.rowTemplate.content.firstElementChild.cloneNode(true));
    const [colour, field] = row.querySelectorAll("input");
    colour.addEventListener("input", () => classes.setColour(name, colour.value));
    field.addEventListener("focus", () => field.select());
    field.addEventListener("change", () => this.#rename(name, field.value.trim() || name));
    field.addEventListener("keydown", (event) => event.key === "Enter" && field.blur());
    row.querySelector("button").addEventListener("click", () => {
      this.#setClass(name, "");
      classes.remove(name);
    });
    this.#rows.set(name, row);
    return row;
  }

  #rename(name, newName) {
    if (newName !== name) {
      this.#isRenaming = true;
      classes.rename(name, newName);
      this.#setClass(name, newName);
      this.#isRenaming = false;
    }
    this.update();
  }

  /** Give all objects of a class another one, in all images. */
  #setClass(name, newName) {
    for (const session of this.#sessions()) {
      const ids = session.objects.filter(({ className }) => className === name).map(({ id }) => id);
      if (ids.length > 0) session.setClass(ids, newName);
    }
  }
}
