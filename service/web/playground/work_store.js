/**
 * The images and the work that this browser keeps after the page is closed, in IndexedDB.
 *
 * A slot holds the work of one tab: `works` has the order of its images, `images` their files, which are written once, and
 * `sessions` the objects and masks, which are written after changes.
 *
 * @typedef {import("./workspace.js").StoredImage} StoredImage
 * @typedef {{order: number[], currentId: number, images: StoredImage[]}} StoredWork
 */

const VERSION = 1;
const STORES = ["works", "images", "sessions"];
const OPEN_TIMEOUT_MS = 5_000; // a browser that never answers must not keep the page from opening images

export class WorkStore {
  #database;

  /** @param {IDBDatabase} database */
  constructor(database) {
    this.#database = database;
    database.onversionchange = () => database.close(); // a newer version of the page, in another tab, needs it
  }

  /**
   * @param {string} name name of the database
   * @throws {Error} if the browser does not store anything
   */
  static async open(name) {
    const request = indexedDB.open(name, VERSION);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("works", { keyPath: "slot" });
      for (const store of ["images", "sessions"]) request.result.createObjectStore(store, { keyPath: ["slot", "id"] });
    };
    const timeout = new Promise((_, reject) => setTimeout(() => reject(new Error("The storage does not answer.")), OPEN_TIMEOUT_MS));
    return new WorkStore(await Promise.race([answered(request), timeout]));
  }

  /** The slots with work, the newest first. @returns {Promise<number[]>} */
  async slots() {
    const works = await answered(this.#transaction("readonly").objectStore("works").getAll());
    return works.sort((one, other) => other.changedAt - one.changedAt).map(({ slot }) => slot);
  }

  /** The work of a slot. @param {number} slot @returns {Promise<StoredWork | null>} null if there is none */
  async read(slot) {
    const transaction = this.#transaction("readonly");
    const [work, images, sessions] = await Promise.all([
      answered(transaction.objectStore("works").get(slot)),
      answered(transaction.objectStore("images").getAll(rangeOf(slot))),
      answered(transaction.objectStore("sessions").getAll(rangeOf(slot))),
    ]);
    if (!work) return null;
    const sessionOf = new Map(sessions.map((session) => [session.id, session]));
    const imageOf = new Map(images.map((image) => [image.id, image]));
    const whole = work.order.filter((id) => imageOf.has(id) && sessionOf.has(id));
    return { ...work, images: whole.map((id) => ({ ...imageOf.get(id), ...sessionOf.get(id) })) };
  }

  /**
   * Write changes in one transaction.
   *
   * @param {number} slot
   * @param {{order: number[], currentId: number, images: object[], sessions: object[], removed: number[]}} changes
   * @throws {DOMException} QuotaExceededError if the browser has no space left; nothing is then written
   */
  async write(slot, { order, currentId, images, sessions, removed }) {
    await this.#change((works, ofImages, ofSessions) => {
      works.put({ slot, order, currentId, changedAt: Date.now() });
      for (const image of images) ofImages.put({ ...image, slot });
      for (const session of sessions) ofSessions.put({ ...session, slot });
      for (const id of removed) for (const store of [ofImages, ofSessions]) store.delete([slot, id]);
    });
  }

  /** Remove the work of a slot. @param {number} slot */
  async clear(slot) {
    await this.#change((works, ofImages, ofSessions) => {
      works.delete(slot);
      for (const store of [ofImages, ofSessions]) store.delete(rangeOf(slot));
    });
  }

  /** Change the stores in one transaction. @param {(...stores: IDBObjectStore[]) => void} change */
  async #change(change) {
    const transaction = this.#transaction("readwrite");
    const done = finished(transaction);
    done.catch(() => {}); // `change` may throw before anything waits for the end
    change(...STORES.map((name) => transaction.objectStore(name)));
    transaction.commit();
    await done;
  }

  /** @param {IDBTransactionMode} mode */
  #transaction(mode) {
    return this.#database.transaction(STORES, mode);
  }
}

/** @param {number} slot */
function rangeOf(slot) {
  return IDBKeyRange.bound([slot], [slot, []]); // arrays come after numbers
}

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function answered(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** @param {IDBTransaction} transaction @returns {Promise<void>} */
function finished(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error ?? new Error("The storage refused the work."));
  });
}
