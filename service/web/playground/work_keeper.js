/**
 * Keeps the open images and their work in this browser, so that they are there after a reload.
 *
 * Where the browser does not store them, and nothing was exported since the last change, it asks before the page is left.
 *
 * @typedef {import("./workspace.js").WorkImage} WorkImage
 * @typedef {"starting" | "kept" | "full" | "off" | "tabs"} KeepingState "full": the storage has no space for some images;
 *   "off": this browser stores nothing; "tabs": other tabs use all slots
 */

import { forFreeSlots, hasLocks, lockSlot } from "./work_slots.js";
import { WorkStore } from "./work_store.js";

const WRITE_AFTER_MS = 300; // one write for the changes of a click
const MAX_BYTES = 2 ** 30; // of the files of one tab
const MAX_FAILURES = 3; // in a row, other than of a full disk

export class WorkKeeper {
  #failures = 0;
  #workspace;
  #name;
  /** @type {WorkStore | null} */
  #store = null;
  #slot = 0;
  #timer = 0;
  #writing = Promise.resolve();
  #state = /** @type {KeepingState} */ ("starting");
  /** @type {Map<number, File>} */
  #files = new Map();
  /** @type {Set<WorkImage>} */
  #changed = new Set();
  /** @type {Set<WorkImage>} */
  #notStored = new Set();
  /** @type {Set<WorkImage>} */
  #notExported = new Set();
  /** @type {WeakSet<WorkImage>} */
  #tooLarge = new WeakSet();
  /** @type {WorkImage | null} */
  #shown = null;

  /** @param {import("./workspace.js").Workspace} workspace @param {string} name name of the database */
  constructor(workspace, name) {
    this.#workspace = workspace;
    this.#name = name;
    /** @type {(state: KeepingState) => void} */
    this.onState = () => {};
    workspace.addEventListener("work", ({ detail: image }) => this.#note(image, true));
    workspace.addEventListener("change", () => this.#schedule());
    // Views are written with the next work, or when the page is left: panning alone would write all masks again.
    workspace.addEventListener("view", () => workspace.current && this.#changed.add(workspace.current));
    workspace.addEventListener("show", () => {
      for (const image of [this.#shown, workspace.current]) if (image) this.#note(image, false); // views and models
      this.#shown = workspace.current;
    });
    addEventListener("beforeunload", (event) => {
      this.#write();
      if (this.hasUnsaved) event.preventDefault();
    });
    addEventListener("visibilitychange", () => document.visibilityState === "hidden" && this.#write());
  }

  /** Whether there is work that is neither stored nor exported. */
  get hasUnsaved() {
    return this.#workspace.images().some((image) => {
      const isStored = this.#files.has(image.id) && !this.#notStored.has(image);
      return !image.session.isEmpty && !isStored && this.#notExported.has(image);
    });
  }

  /** Restore the work of the last visit, and store changes from now on. */
  async start() {
    try {
      if (!hasLocks) throw new Error("There are no locks.");
      const store = await WorkStore.open(this.#name);
      const slot = await lockSlot(this.#name, await store.slots());
      if (slot === null) return this.#setState("tabs");
      const work = await store.read(slot);
      for (const { id, file } of work?.images ?? []) this.#files.set(id, file);
      if (work) await this.#workspace.restore(work.images, work.currentId);
      this.#slot = slot;
      this.#store = store;
    } catch {
      return this.#setState("off"); // a private window, a full disk, or a browser that forbids storage
    }
    this.#setState("kept");
    this.#schedule();
  }

  /** Note that the work on these images was exported. @param {readonly WorkImage[]} images */
  exported(images) {
    for (const image of images) this.#notExported.delete(image);
  }

  /** Close all images, and remove all work from this browser, but that of other open tabs. */
  async startOver() {
    this.#workspace.clear();
    clearTimeout(this.#timer);
    this.#timer = 0;
    await this.#writing;
    this.#files.clear();
    for (const set of [this.#changed, this.#notStored, this.#notExported]) set.clear();
    const store = this.#store;
    if (!store) return;
    await store.clear(this.#slot);
    const others = (await store.slots()).filter((slot) => slot !== this.#slot);
    await forFreeSlots(this.#name, others, (slot) => store.clear(slot));
    this.#setState("kept");
  }

  /** @param {WorkImage} image @param {boolean} isWork whether objects have changed, and not only the view */
  #note(image, isWork) {
    this.#changed.add(image);
    if (isWork) for (const set of [this.#notStored, this.#notExported]) set.add(image);
    this.#schedule();
  }

  #schedule() {
    if (this.#store) this.#timer ||= setTimeout(() => this.#write(), WRITE_AFTER_MS);
  }

  /** Write all changes, after those that are being written. */
  #write() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    if (this.#store) this.#writing = this.#writing.then(() => this.#writeNow());
  }

  async #writeNow() {
    const images = this.#storable();
    const removed = [...this.#files.keys()].filter((id) => !images.some((image) => image.id === id));
    const files = images.filter(({ id, file }) => this.#files.get(id) !== file);
    const changed = images.filter((image) => this.#changed.has(image) || files.includes(image));
    const sessions = changed.map((image) => {
      this.#changed.delete(image); // changes during the write are written with the next one
      return { id: image.id, dump: image.session.dump(), view: this.#workspace.viewOf(image), model: image.model };
    });
    try {
      await this.#store.write(this.#slot, {
        order: images.map(({ id }) => id),
        currentId: this.#workspace.current?.id ?? 0,
        images: files.map(({ id, file, source, width, height, thumbnail }) => ({ id, file, source, width, height, thumbnail })),
        sessions,
        removed,
      });
    } catch (error) {
      for (const image of changed) this.#changed.add(image);
      if (error.name === "QuotaExceededError") {
        for (const image of files) this.#tooLarge.add(image);
        this.#setState("full");
        if (files.length > 0) this.#schedule(); // the rest, without these files
      } else if (++this.#failures < MAX_FAILURES) {
        this.#schedule();
      } else {
        this.#setState("off");
      }
      return;
    }
    this.#failures = 0;
    for (const image of changed) if (!this.#changed.has(image)) this.#notStored.delete(image);
    for (const { id, file } of files) this.#files.set(id, file);
    for (const id of removed) this.#files.delete(id);
    this.#setState(images.length < this.#workspace.images().length ? "full" : "kept");
  }

  /** The first images whose files are small enough together. */
  #storable() {
    let bytes = 0;
    return this.#workspace.images().filter((image) => {
      if (this.#tooLarge.has(image) || bytes + image.file.size > MAX_BYTES) return false;
      bytes += image.file.size;
      return true;
    });
  }

  /** @param {KeepingState} state */
  #setState(state) {
    if (state !== this.#state) this.onState(state);
    this.#state = state;
  }
}
