/** Work on several objects of the list at once: mark them, then merge them, give them a class, or delete them. */

const element = (id) => document.getElementById(id);
const button = (id) => /** @type {HTMLButtonElement} */ (element(id));

export class MarkedObjects {
  #session;
  #list;
  #isOn = false;
  /** @type {Set<number>} */
  #ids = new Set();
  #lastId = 0;

  /** @param {import("./session.js").Session} session @param {HTMLElement} list the list of objects */
  constructor(session, list) {
    this.#session = session;
    this.#list = list;
    /** Called when the rows have to be updated. */
    this.onChange = () => {};
    button("select-several").addEventListener("click", () => this.#setOn(!this.#isOn));
    element("mark-all").addEventListener("change", ({ target }) => {
      this.#ids = new Set(/** @type {HTMLInputElement} */ (target).checked ? this.#all : []);
      this.onChange();
    });
    button("merge-marked").addEventListener("click", () => this.#end((ids) => session.merge(ids)));
    button("delete-marked").addEventListener("click", () => this.#end((ids) => session.removeObjects(ids)));
    const field = /** @type {HTMLInputElement} */ (element("class-of-marked"));
    field.addEventListener("change", () => {
      session.setClass(this.#marked, field.value.trim());
      field.value = "";
    });
  }

  /** Connect the checkbox of a new row. Clicks with Ctrl or Shift on the row mark it, too. @param {HTMLElement} row @param {number} id */
  connect(row, id) {
    const box = /** @type {HTMLInputElement} */ (row.querySelector(".object-mark"));
    box.addEventListener("click", (event) => {
      event.stopPropagation(); // marking an object does not select it
      this.#mark(id, box.checked, event.shiftKey);
    });
    row.addEventListener(
      "click",
      (event) => {
        if (!(event.ctrlKey || event.metaKey || event.shiftKey) || event.target === box) return;
        event.stopPropagation();
        this.#isOn = true;
        this.#mark(id, event.shiftKey || !this.#ids.has(id), event.shiftKey);
      },
      { capture: true },
    );
  }

  /** @param {HTMLElement} row @param {import("./objects.js").SessionObject} object */
  updateRow(row, { id, name }) {
    const box = /** @type {HTMLInputElement} */ (row.querySelector(".object-mark"));
    box.hidden = !this.#isOn;
    box.checked = this.#ids.has(id);
    box.setAttribute("aria-label", `Mark ${name}`);
  }

  /** Show the actions. */
  update() {
    const isUseful = this.#session.objects.length > 1;
    if (!isUseful) this.#isOn = false;
    const marked = this.#marked;
    button("select-several").hidden = !isUseful;
    button("select-several").setAttribute("aria-pressed", String(this.#isOn));
    element("marked-actions").hidden = !this.#isOn;
    const masks = this.#session.objects.filter((object) => marked.includes(object.id) && this.#session.mask(object));
    button("merge-marked").disabled = masks.length < 2;
    button("delete-marked").disabled = marked.length === 0;
    /** @type {HTMLInputElement} */ (element("class-of-marked")).disabled = marked.length === 0;
    const all = /** @type {HTMLInputElement} */ (element("mark-all"));
    all.checked = marked.length > 0 && marked.length === this.#all.length;
    all.indeterminate = marked.length > 0 && !all.checked;
    element("marked-count").textContent = `${marked.length} marked`;
    this.#list.classList.toggle("is-marking", this.#isOn);
  }

  get #all() {
    return this.#session.objects.map(({ id }) => id);
  }

  /** The marked objects that are still there. */
  get #marked() {
    return this.#all.filter((id) => this.#ids.has(id));
  }

  #setOn(isOn) {
    this.#isOn = isOn;
    this.#ids.clear();
    this.onChange();
  }

  /** @param {number} id @param {boolean} isMarked @param {boolean} isRange up to the object that was marked last */
  #mark(id, isMarked, isRange) {
    const all = this.#all;
    const [from, to] = [all.indexOf(this.#lastId), all.indexOf(id)].sort((a, b) => a - b);
    const ids = isRange && from >= 0 ? all.slice(from, to + 1) : [id];
    for (const each of ids) this.#ids[isMarked ? "add" : "delete"](each);
    this.#lastId = id;
    this.onChange();
  }

  /** @param {(ids: number[]) => void} act */
  #end(act) {
    const ids = this.#marked;
    this.#setOn(false);
    act(ids);
  }
}
