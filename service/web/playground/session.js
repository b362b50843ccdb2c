/**
 * What the user has made of a picture: objects, each with what points at it. No page and no network here.
 *
 * Objects and prompts are never changed, only replaced, so that undo is a list of earlier states. Masks are found by
 * the prompt that they answer, and undo finds them again without asking the service.
 *
 * @typedef {import("../client/edgesam.js").Mask} Mask
 * @typedef {import("../client/edgesam.js").Box} Box
 * @typedef {{points: {x: number, y: number, label: 0 | 1}[], box: import("../client/edgesam.js").Box | null,
 *   refined: Mask | null, before: SessionPrompt | null}} SessionPrompt `refined` is the mask it goes on from, `before` the
 *   prompt that mask answered
 * @typedef {{id: number, name: string, colour: string, prompt: SessionPrompt | null}} SessionObject
 */

/** Told apart on pictures and from each other; white outlines do the rest. */
export const COLOURS = ["#2f7bff", "#ff6f1f", "#17a765", "#d63bd6", "#e0ac00", "#00a7c7", "#e5383b", "#8257e6"];

const MOST_UNDO = 200;

/** Tells of each change with the event `change`. */
export class Session extends EventTarget {
  #past = [];
  #future = [];
  #nextId = 1;
  /** @type {{objects: SessionObject[], selectedId: number}} */
  #state = this.#empty();
  /** @type {WeakMap<SessionPrompt, {masks: Mask[], chosen: number, grownBox: Box | null}>} */
  #answers = new WeakMap();

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

  /** Begin anew, with nothing to return to. */
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

  /** Replaces the selected object's box. @param {import("../client/edgesam.js").Box} box */
  setBox(box) {
    // A mask found without the box, or in another one, would pull the answer back to it.
    this.#prompt({ points: this.selected.prompt?.points ?? [], refined: null, before: this.selected.prompt, box });
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

  /** Not a step of its own: undo does not return to it. @param {number} id */
  select(id) {
    this.#state = { ...this.#state, selectedId: id };
    this.#changed();
  }

  /** Empties the selected object. */
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
   * @param {Box | null} [grownBox] what a click was grown to
   */
  answer(prompt, masks, grownBox = null) {
    this.#answers.set(prompt, { masks, chosen: 0, grownBox });
    this.#changed();
  }

  /** @param {SessionPrompt} prompt */
  isAnswered(prompt) {
    return this.#answers.has(prompt);
  }

  /** The masks to choose from, and the box that they came from if that was not drawn. @param {SessionObject} object */
  candidates({ prompt }) {
    return (prompt && this.#answers.get(prompt)) || { masks: [], chosen: 0, grownBox: null };
  }

  /** Choose among the selected object's masks; beyond the last comes the first. @param {number} index */
  choose(index) {
    const answer = this.selected.prompt && this.#answers.get(this.selected.prompt);
    if (!answer || answer.masks.length < 2) return;
    answer.chosen = (index + answer.masks.length) % answer.masks.length;
    this.#changed();
  }

  /**
   * The mask to show: that of the earlier prompt while the service has not answered the newest.
   *
   * @param {SessionObject} object
   * @returns {Mask | null}
   */
  mask({ prompt }) {
    for (let asked = prompt; asked; asked = asked.before) {
      const answer = this.#answers.get(asked);
      if (answer) return answer.masks[answer.chosen] ?? null;
    }
    return null;
  }

  /** What a further point starts from: the mask that is shown now. */
  #refining(prompt) {
    const answer = prompt && this.#answers.get(prompt);
    const refined = answer ? (answer.masks[answer.chosen] ?? null) : (prompt?.refined ?? null);
    return { box: prompt?.box ?? null, refined, before: prompt };
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
    if (this.#past.length > MOST_UNDO) this.#past.shift();
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
