/**
 * The user's work on an image: objects, their prompts and masks. This module uses neither the page nor the network.
 *
 * Objects and prompts are replaced and never changed, so undo is a list of earlier states. Masks are stored by the
 * prompt that they answer. Undo therefore finds them without a request.
 *
 * @typedef {import("../client/edgesam.js").Mask} Mask
 * @typedef {import("../client/edgesam.js").Box} Box
 * @typedef {import("./prompts.js").SessionPrompt} SessionPrompt
 * @typedef {import("./prompts.js").SessionPoint} SessionPoint
 * @typedef {{masks: Mask[], chosen: number, granularityBox: Box | null}} Answered
 * @typedef {import("./objects.js").SessionObject} SessionObject
 * @typedef {{objects: SessionObject[], selectedId: number}} State
 */

import { isUnused, newObject } from "./objects.js";
import { edited, givenMask, refining, restored, stored, withBox, withPoint } from "./prompts.js";
import { unionOf } from "./run_lengths.js";

const MAX_UNDO = 200;
const DUMP_VERSION = 1;

/** Fires `change` after each change. */
export class Session extends EventTarget {
  #past = [];
  #future = [];
  #nextId = 1;
  /** @type {State} */
  #state = this.#empty();
  /** @type {WeakMap<SessionPrompt, Answered>} */
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

  /** @param {SessionPoint} point */
  addPoint(point) {
    const { prompt } = this.selected;
    this.#prompt(withPoint(prompt, point, this.#refinedBy(prompt)));
  }

  /** Move a point of the selected object. @param {number} index @param {{x: number, y: number}} position */
  movePoint(index, { x, y }) {
    this.#editPoint(index, (point) => [{ ...point, x, y }]);
  }

  /** @param {number} index @param {0 | 1} label */
  setPointLabel(index, label) {
    this.#editPoint(index, (point) => [{ ...point, label }]);
  }

  /** @param {number} index */
  removePoint(index) {
    this.#editPoint(index, () => []);
  }

  /** Set or replace the selected object's box. @param {Box} box */
  setBox(box) {
    this.#prompt(withBox(this.selected.prompt, box));
  }

  removeBox() {
    const { prompt } = this.selected;
    if (prompt?.box) this.#prompt(edited(prompt, { box: null }));
  }

  /** Replace the selected object's mask by a given one, such as a painted mask; an empty one clears it. @param {Mask} mask */
  paint(mask) {
    this.#prompt(mask.area > 0 ? givenMask(mask, this.selected.prompt) : null);
  }

  /** Let the model refine the selected object's given mask. */
  refine() {
    const { prompt } = this.selected;
    if (prompt?.given) this.#prompt(refining(prompt));
  }

  addObject() {
    const object = this.#newObject(this.objects);
    this.#commit({ objects: [...this.objects, object], selectedId: object.id });
  }

  /**
   * Add an object for each mask. Objects that are still as `addObject` made them give their places and numbers first.
   *
   * @param {Mask[]} masks
   * @param {{names?: string[], select?: boolean}} [options] names by mask; whether the first new object is selected
   */
  addMasks(masks, { names = [], select = true } = {}) {
    if (masks.length === 0) return;
    const objects = this.objects.filter((object) => !isUnused(object));
    const freeIds = this.objects.filter(isUnused).map(({ id }) => id);
    const first = objects.length;
    masks.forEach((mask, i) => {
      const object = this.#newObject(objects, freeIds[i]);
      objects.push({ ...object, name: names[i] || object.name, prompt: givenMask(mask) });
    });
    const isSelectedLeft = objects.some(({ id }) => id === this.#state.selectedId);
    const selectedId = select || !isSelectedLeft ? objects[first].id : this.#state.selectedId;
    this.#commit({ objects, selectedId });
  }

  /** Join the masks of objects in the first one of them, which becomes the selected one. @param {number[]} ids */
  merge(ids) {
    const parts = this.objects.filter((object) => ids.includes(object.id) && this.mask(object) !== null);
    if (parts.length < 2) return;
    const [first, ...others] = parts;
    const prompt = givenMask(unionOf(parts.map((part) => this.mask(part))), first.prompt);
    const objects = this.objects
      .filter((object) => !others.includes(object))
      .map((object) => (object === first ? { ...object, prompt } : object));
    this.#commit({ objects, selectedId: first.id });
  }

  /** @param {number} id */
  removeObject(id) {
    this.removeObjects([id]);
  }

  /** @param {number[]} ids */
  removeObjects(ids) {
    const objects = this.objects.filter((object) => !ids.includes(object.id));
    if (objects.length === this.objects.length) return;
    if (objects.length === 0) objects.push(this.#newObject([]));
    const isSelectedLeft = objects.some((object) => object.id === this.#state.selectedId);
    this.#commit({ objects, selectedId: isSelectedLeft ? this.#state.selectedId : objects[objects.length - 1].id });
  }

  /** @param {number} id @param {string} name */
  rename(id, name) {
    this.#replace([id], { name });
  }

  /** @param {number[]} ids @param {string} className empty for none */
  setClass(ids, className) {
    this.#replace(ids, { className });
  }

  /** Show or hide objects. Undo and redo leave this as it is. @param {number[]} ids @param {boolean} isVisible */
  setVisible(ids, isVisible) {
    const objects = this.objects.map((object) => (ids.includes(object.id) ? { ...object, isVisible } : object));
    this.#state = { ...this.#state, objects };
    this.#changed();
  }

  /** Select an object. Undo skips selections. @param {number} id */
  select(id) {
    this.#state = { ...this.#state, selectedId: id };
    this.#changed();
  }

  /** Remove the selected object's prompt and mask. */
  clear() {
    if (this.selected.prompt) this.#prompt(null);
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
    this.#store(prompt, { masks, chosen: 0, granularityBox });
    this.#changed();
  }

  /** Drop all answers, since another model answers from now on. Prompts and given masks stay, and so do undo and redo. */
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
    return prompt.given !== null || this.#answers.has(prompt);
  }

  /** The masks to choose from, the index of the chosen one, and the box that the service found. @param {SessionObject} object */
  candidates({ prompt }) {
    return (prompt && this.#answerOf(prompt)) || { masks: [], chosen: 0, granularityBox: null };
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
      const answer = this.#answerOf(current);
      if (answer) return answer.masks[answer.chosen] ?? null;
    }
    return null;
  }

  /** The whole work with its masks, without undo: a value that `structuredClone` and IndexedDB take. */
  dump() {
    const objects = this.objects.map(({ prompt, ...object }) => {
      if (!prompt) return { ...object, prompt: null, answer: null };
      const isKnown = prompt.refined !== null && this.knows(prompt.refined);
      return { ...object, prompt: stored(prompt, isKnown), answer: this.#answers.get(prompt) ?? null };
    });
    return structuredClone({ version: DUMP_VERSION, objects, selectedId: this.#state.selectedId, nextId: this.#nextId });
  }

  /**
   * Replace the work by that of a dump, and clear undo and redo.
   *
   * @param {ReturnType<Session["dump"]>} dump
   * @throws {RangeError} if another version of the page has made the dump
   */
  restore(dump) {
    if (dump.version !== DUMP_VERSION || dump.objects.length === 0) throw new RangeError("The stored work has an unknown format.");
    const { objects, selectedId, nextId } = structuredClone(dump);
    this.#past = [];
    this.#future = [];
    this.#nextId = nextId;
    const answers = [];
    this.#state = {
      selectedId,
      objects: objects.map(({ answer, prompt, ...object }) => {
        const again = prompt && restored(prompt);
        if (again?.refined) this.#masks.add(again.refined);
        if (again && answer) answers.push([again, answer]);
        return { ...object, prompt: again };
      }),
    };
    for (const [prompt, answer] of answers) this.#store(prompt, answer);
    this.#changed();
  }

  /** @param {SessionPrompt} prompt @returns {Answered | undefined} */
  #answerOf(prompt) {
    if (prompt.given) return { masks: [prompt.given], chosen: 0, granularityBox: null };
    return this.#answers.get(prompt);
  }

  /** @param {SessionPrompt} prompt @param {Answered} answer */
  #store(prompt, answer) {
    this.#answers.set(prompt, answer);
    for (const mask of answer.masks) this.#masks.add(mask);
  }

  /** The mask that the next point refines: the one that is shown now. */
  #refinedBy(prompt) {
    const answer = prompt && this.#answerOf(prompt);
    return answer ? (answer.masks[answer.chosen] ?? null) : (prompt?.refined ?? null);
  }

  #editPoint(index, change) {
    const { prompt } = this.selected;
    if (!prompt?.points[index]) return;
    this.#prompt(edited(prompt, { points: prompt.points.flatMap((point, i) => (i === index ? change(point) : [point])) }));
  }

  #prompt(prompt) {
    this.#replace([this.selected.id], { prompt });
  }

  #replace(ids, members) {
    const objects = this.objects.map((object) => (ids.includes(object.id) ? { ...object, ...members } : object));
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
    const isVisible = new Map(this.objects.map((object) => [object.id, object.isVisible]));
    const { objects, selectedId } = from.pop();
    const shown = objects.map((object) => ({ ...object, isVisible: isVisible.get(object.id) ?? object.isVisible }));
    this.#state = { objects: shown, selectedId };
    this.#changed();
  }

  #empty() {
    const object = this.#newObject([]);
    return { objects: [object], selectedId: object.id };
  }

  #newObject(others, id = this.#nextId++) {
    return newObject(id, others);
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
