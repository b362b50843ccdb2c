/**
 * "Find all objects": asks for an everything result of the image in view, shows the masks as they come, and keeps the
 * result with the image. While the result is shown, a click takes the found object under the pointer.
 *
 * @typedef {import("./workspace.js").WorkImage} WorkImage
 * @typedef {import("../client/edgesam.js").Mask} Mask
 * @typedef {{found: FoundMasks, layer: FoundLayer}} Result
 * @typedef {Record<"start" | "busy" | "text" | "bar" | "cancel" | "results" | "count" | "takeAll" | "done" | "hint" | "canvas", HTMLElement>} Parts
 *   `canvas` gets the focus of a button that disappears, and `hint` says what a click does
 */

import { maskOfEverything } from "../client/edgesam.js";
import { FoundLayer } from "./found_layer.js";
import { FoundMasks } from "./found_masks.js";
import { announce, toast } from "./messages.js";

const CLICK_HINT = "Click an object, or drag a box around it.";
const FOUND_HINT = "Click a found object to add it.";

export class FindAll {
  #client;
  #session;
  #stage;
  #workspace;
  #parts;
  /** @type {WeakMap<WorkImage, Result>} finished results */
  #results = new WeakMap();
  /** The result that is shown: a finished one, or the masks found so far. */
  #shown = /** @type {Result | null} */ (null);
  #search = /** @type {AbortController | null} */ (null);
  #hasFailed = false;
  /** The position of the pointer, and how many nested masks there the user has stepped over. */
  #hover = { at: /** @type {{x: number, y: number} | null} */ (null), smallest: /** @type {Mask | null} */ (null), depth: 0 };

  /**
   * @param {object} owners
   * @param {import("../client/edgesam.js").Client} owners.client
   * @param {import("./session.js").Session} owners.session
   * @param {import("./stage.js").Stage} owners.stage
   * @param {import("./workspace.js").Workspace} owners.workspace
   * @param {Parts} parts elements of index.html
   */
  constructor({ client, session, stage, workspace }, parts) {
    this.#client = client;
    this.#session = session;
    this.#stage = stage;
    this.#workspace = workspace;
    this.#parts = parts;
    /** @type {(error: Error) => void} */
    this.onError = () => {};
    parts.start.addEventListener("click", () => this.start());
    parts.cancel.addEventListener("click", () => this.#search?.abort());
    parts.takeAll.addEventListener("click", () => this.#takeAll());
    parts.done.addEventListener("click", () => this.close());
    workspace.addEventListener("show", () => this.#leave());
    workspace.addEventListener("embedded", () => this.#update());
    this.#update();
  }

  /** Whether found objects are shown, so that clicks take them. */
  get isOpen() {
    return this.#shown !== null;
  }

  /** Show the result of the image in view; ask for it first if there is none. */
  async start() {
    const image = this.#workspace.current;
    if (!image?.imageHash || this.#search) return;
    const result = this.#results.get(image);
    if (result) this.#show(result);
    else await this.#find(image);
  }

  /** Search again after a failure. @returns {boolean} whether there was one */
  retry() {
    const hasFailed = this.#hasFailed;
    if (hasFailed) this.start();
    return hasFailed;
  }

  /** Stop the search, or hide the result, which stays with its image. @returns {boolean} whether there was one */
  close() {
    if (!this.isOpen) return false;
    this.#search?.abort();
    this.#show(null);
    return true;
  }

  /** Forget all results, since another model answers from now on. */
  reset() {
    this.#results = new WeakMap();
    this.#leave();
  }

  /**
   * The found object that a click at a position would take.
   *
   * @param {{x: number, y: number} | null} at pixels of the image; null where the pointer is elsewhere
   * @returns {Mask | null}
   */
  hover(at) {
    this.#hover.at = at;
    if (!at) return null; // a press hides what it is about to take
    const masks = this.#masksAt(at);
    if (masks[0] !== this.#hover.smallest) this.#hover.depth = 0;
    this.#hover.smallest = masks[0] ?? null;
    return masks[this.#hover.depth % masks.length] ?? null;
  }

  /** Step to the next larger found object under the pointer. @returns {Mask | null} null where there are no two */
  next() {
    const { at } = this.#hover;
    if (!at || this.#masksAt(at).length < 2) return null;
    this.#hover.depth += 1;
    return this.hover(at);
  }

  /**
   * Take the found object at a point as an object of the session.
   *
   * @param {import("./prompts.js").SessionPoint} point
   * @returns {boolean} whether there was one; otherwise the point is a prompt
   */
  take(point) {
    const mask = point.label === 1 ? this.hover(point) : null;
    if (!mask) {
      this.makeRoom(point.label);
      return false;
    }
    this.#hover.depth = 0;
    const taken = this.#session.objects.find((object) => object.prompt?.given === mask);
    if (taken) this.#session.select(taken.id);
    else this.#session.addMasks([mask]);
    return true;
  }

  /** Start another object for a prompt that is drawn while the found objects are shown. @param {0 | 1} [label] 0 refines */
  makeRoom(label = 1) {
    if (this.isOpen && label === 1 && this.#session.selected.prompt) this.#session.addObject();
  }

  /** Found masks at a position, smallest first; none where a click refines the selected object. */
  #masksAt(at) {
    const result = this.#shown ?? this.#finished();
    return result && (this.isOpen || !this.#session.selected.prompt) ? result.found.at(at) : [];
  }

  /** @returns {Result | null} the result of the image in view, also if it is hidden */
  #finished() {
    const image = this.#workspace.current;
    return (image && this.#results.get(image)) ?? null;
  }

  /** @param {WorkImage} image */
  async #find(image) {
    const search = new AbortController();
    const result = { found: new FoundMasks(), layer: new FoundLayer(image) };
    this.#search = search;
    this.#hasFailed = false;
    this.#show(result);
    this.#progress(0, 1, 0);
    announce("Finding all objects.");
    try {
      const onEvent = (event) => search.signal.aborted || this.#follow(event, result);
      await this.#client.segmentEverything(image.imageHash, { signal: search.signal, onEvent });
      this.#results.set(image, result);
    } catch (error) {
      if (!search.signal.aborted) this.#fail(error);
    }
    if (this.#search !== search) return; // another image is in view
    this.#search = null;
    const isFinished = this.#results.get(image) === result;
    this.#show(isFinished && result.found.size > 0 ? result : null);
    if (isFinished) this.#say(result.found.size);
  }

  /** @param {Error & {code?: string}} error */
  #fail(error) {
    this.#hasFailed = error.code !== "not-found";
    // Older services do not have the route.
    this.onError(error.code === "not-found" ? Object.assign(new Error(error.message), { code: "cannot-find-all" }) : error);
  }

  /** @param {import("../client/everything.js").EverythingEvent} event @param {Result} result */
  #follow(event, { found, layer }) {
    if (event.event === "mask") {
      const mask = /** @type {Mask} */ ({ ...maskOfEverything(event), mask_id: "" });
      found.add(event.id, mask);
      layer.add(mask);
    } else if (event.event === "drop") {
      found.drop(event.ids);
      layer.replace(found.masks);
    } else if (event.event === "end") {
      found.arrange(event.ids);
      layer.replace(found.masks);
    } else {
      this.#progress("done" in event ? event.done : 0, event.prompts, found.size);
    }
    this.#stage.draw({ found: layer });
  }

  #progress(done, points, count) {
    const { text, bar } = this.#parts;
    text.textContent = `Finding objects, ${Math.round((100 * done) / points)} %. ${count} found so far.`;
    bar.style.width = `${(100 * done) / points}%`;
  }

  #say(count) {
    const text = count === 0 ? "No objects were found." : `${count} ${count === 1 ? "object" : "objects"} found.`;
    announce(text);
    if (count === 0) toast(text);
  }

  /** @param {Result | null} result */
  #show(result) {
    this.#shown = result;
    this.#hover = { at: null, smallest: null, depth: 0 };
    this.#stage.draw({ found: result?.layer ?? null, preview: null });
    this.#update();
  }

  /** Add an object for each mask that is not one yet. */
  #takeAll() {
    const taken = new Set(this.#session.objects.map(({ prompt }) => prompt?.given));
    const masks = this.#shown.found.masks.filter((mask) => !taken.has(mask));
    this.close();
    this.#session.addMasks(masks);
    toast(`Added ${masks.length} ${masks.length === 1 ? "object" : "objects"}`);
  }

  /** Another image comes into view. */
  #leave() {
    if (this.#search) toast("The search for objects was stopped");
    this.#search?.abort();
    this.#search = null;
    this.#hasFailed = false;
    this.#show(null);
  }

  #update() {
    const { start, busy, cancel, results, count, takeAll, done, hint, canvas } = this.#parts;
    const hadFocus = [start, cancel, takeAll, done].includes(/** @type {HTMLElement} */ (document.activeElement));
    const isBusy = this.#search !== null;
    const size = this.#finished()?.found.size ?? 0;
    start.hidden = this.isOpen;
    busy.hidden = !isBusy;
    results.hidden = !this.isOpen || isBusy;
    hint.textContent = results.hidden ? CLICK_HINT : FOUND_HINT;
    /** @type {HTMLButtonElement} */ (start).disabled = !this.#workspace.current?.imageHash;
    start.querySelector("span").textContent = size > 0 ? "Show the found objects" : "Find all objects";
    count.textContent = `${size} ${size === 1 ? "object" : "objects"} found.`;
    takeAll.textContent = size > 1 ? `Add all ${size}` : "Add it";
    if (hadFocus) (isBusy ? cancel : canvas).focus({ preventScroll: true });
  }
}
