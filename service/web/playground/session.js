/**
 * The user's work on an image: objects, their prompts and masks. This module uses neither the page nor the network.
 *
 * Objects and prompts are replaced and never changed, so undo is a list of earlier states. Masks are stored by the
 * prompt that they answer. Undo therefore finds them without a request.
 *
 * @typedef {import("../client/edgesam.js").Mask} Mask
 * @typedef {import("../client/edgesam.js").Box} Box
 * @typedef {{points: {x: number, y: number, label: 0 | 1}[], box: import("../client/edgesam.js").Box | null,
 *   refined: Mask | null, previous: SessionPrompt | null}} SessionPrompt `refined` is the mask that the prompt refines,
 *   `previous` the prompt before it
 * @typedef {{id: number, name: string, colour: string, prompt: SessionPrompt | null}} SessionObject
 */

/** Colours of masks, chosen to differ from each other and from most images. */
export const COLOURS = ["#2f7bff", "#ff6f1f", "#17a765", "#d63bd6", "#e0ac00", "#00a7c7", "#e5383b", "#8257e6"];

const MAX_UNDO = 200;

/** Fires `change` after each change. */
export class Session extends EventTarget {
  #past = [];
  #future = [];
  #nextId = 1;
  /** @type {{objects: SessionObject[], selectedId: number}} */
  #state = this.#empty();
  /** @type {WeakMap<SessionPrompt, {masks: Mask[], chosen: number, granularityBox: Box | null}>} */
  #answers = new WeakMap();
  /** @type {WeakSet<Mask>} */
  #masks = new WeakSet();

  get objects() {
    return this.#state.objects;
  }

  /** @returns {SessionObject} */
  get selected() {
    return this.objects.find(({ id }) => id === this.#state.selectedId) ?? this.objects[0];
  }

  get canUndo() {
    return this.#past.length > 0;
  }

  get canRedo() {
    return this.#future.length > 0;
  }

  get isEmpty() {
    return this.objects.every(({ prompt }) => prompt === null);
  }

  /** Start with one empty object, and clear undo and redo. */
  reset() {
    this.#past = [];
    this.#future = [];
    this.#nextId = 1;
    this.#state = this.#empty();
    this.#changed();
  }

  /** @param {{x: number, y: number, label: 0 | 1}} point */
  addPoint(point) {
    const { prompt } = this.selected;
    this.#prompt({ ...this.#refining(prompt), points: [...(prompt?.points ?? []), point] });
  }

  /** Replace the selected object's box. @param {import("../client/edgesam.js").Box} box */
  setBox(box) {
    // A mask from another box, or from none, would pull the answer back to that mask.
    this.#prompt({ points: this.selected.prompt?.points ?? [], refined: null, previous: this.selected.prompt, box });
  }

  addObject() {
    const object = this.#newObject(this.objects);
    this.#commit({ objects: [...this.objects, object], selectedId: object.id });
  }

  /** @param {number} id */
  removeObject(id) {
    const objects = this.objects.filter((object) => object.id !== id);
    if (objects.length === 0) objects.push(this.#newObject([]));
    const isSelectedLeft = objects.some((object) => object.id === this.#state.selectedId);
    this.#commit({ objects, selectedId: isSelectedLeft ? this.#state.selectedId : objects[objects.length - 1].id });
  }

  /** @param {number} id @param {string} name */
  rename(id, name) {
    this.#replace(id, { name });
  }

  /** Select an object. Undo skips selections. @param {number} id */
  select(id) {
    this.#state = { ...this.#state, selectedId: id };
    this.#changed();
  }

  /** Remove the selected object's prompt and mask. */
  clear() {
    if (this.selected.prompt) this.#replace(this.selected.id, { prompt: null });
  }

  undo() {
    this.#travel(this.#past, this.#future);
  }

  redo() {
    this.#travel(this.#future, this.#past);
  }

  /**
   * @param {SessionPrompt} prompt
   * @param {Mask[]} masks best first
   * @param {Box | null} [granularityBox] box of the whole object that the service found around a click
   */
  answer(prompt, masks, granularityBox = null) {
    this.#answers.set(prompt, { masks, chosen: 0, granularityBox });
    for (const mask of masks) this.#masks.add(mask);
    this.#changed();
  }

  /** Drop all masks, since another model answers from now on. The prompts stay, and so do undo and redo. */
  dropMasks() {
    this.#answers = new WeakMap();
    this.#masks = new WeakSet();
    this.#changed();
  }

  /** Whether a mask is an answer that was not dropped. @param {Mask} mask */
  knows(mask) {
    return this.#masks.has(mask);
  }

  /** @param {SessionPrompt} prompt */
  isAnswered(prompt) {
    return this.#answers.has(prompt);
  }

  /** The masks to choose from, the index of the chosen one, and the box that the service found. @param {SessionObject} object */
  candidates({ prompt }) {
    return (prompt && this.#answers.get(prompt)) || { masks: [], chosen: 0, granularityBox: null };
  }

  /** Choose one of the selected object's masks. @param {number} index after the last mask comes the first */
  choose(index) {
    const answer = this.selected.prompt && this.#answers.get(this.selected.prompt);
    if (!answer || answer.masks.length < 2) return;
    answer.chosen = (index + answer.masks.length) % answer.masks.length;
    this.#changed();
  }

  /**
   * The mask to show. Until the newest prompt is answered, this is the mask of the prompt before it.
   *
   * @param {SessionObject} object
   * @returns {Mask | null}
   */
  mask({ prompt }) {
    for (let current = prompt; current; current = current.previous) {
      const answer = this.#answers.get(current);
      if (answer) return answer.masks[answer.chosen] ?? null;
    }
    return null;
  }

  /** Members of the next prompt: it refines the mask that is shown now. */
  #refining(prompt) {
    const answer = prompt && this.#answers.get(prompt);
    const refined = answer ? (answer.masks[answer.chosen] ?? null) : (prompt?.refined ?? null);
    return { box: prompt?.box ?? null, refined, previous: prompt };
  }

  #prompt(prompt) {
    this.#replace(this.selected.id, { prompt });
  }

  #replace(id, members) {
    const objects = this.objects.map((object) => (object.id === id ? { ...object, ...members } : object));
    this.#commit({ ...this.#state, objects });
  }

  #commit(state) {
    this.#past.push(this.#state);
    if (this.#past.length > MAX_UNDO) this.#past.shift();
    this.#future = [];
    this.#state = state;
    this.#changed();
  }

  #travel(from, to) {
    if (from.length === 0) return;
    to.push(this.#state);
    this.#state = from.pop();
    this.#changed();
  }

  #empty() {
    const object = this.#newObject([]);
    return { objects: [object], selectedId: object.id };
  }

  #newObject(others) {
    const id = this.#nextId++;
    const colour = COLOURS.find((free) => others.every((other) => other.colour !== free));
    return { id, name: `Object ${id}`, colour: colour ?? COLOURS[(id - 1) % COLOURS.length], prompt: null };
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
