/**
 * The images that are open. One of them is in view, and each has a session of its own.
 *
 * The image in view is embedded first, then the one after it. At most one is embedded at a time. Only the image in view is
 * kept decoded, since 50 decoded images of 12 megapixels would need 2.4 GB.
 *
 * @typedef {object} WorkImage
 * @property {number} id
 * @property {string} name file name, of which no other open image has the same
 * @property {File} file the file that the service gets
 * @property {string} source identifies the file that was opened
 * @property {number} width pixels of the upright image
 * @property {number} height
 * @property {string} imageHash empty while the image is not embedded
 * @property {string} model name of the model that answered the session's prompts; empty if none did
 * @property {Session} session
 * @property {import("./viewport.js").View | null} view zoom and position; null shows the whole image
 */

import { embedAsShown } from "./embedding.js";
import { Session } from "./session.js";
import { shownImage } from "./shown_image.js";

const MAX_IMAGES = 200;

/** Fires `show` when another image, or none, comes into view; `embedded` when the one in view can be clicked on; and `change` when the list changes. */
export class Workspace extends EventTarget {
  #client;
  #stage;
  #segmenter;
  #use;
  /** @type {WorkImage[]} */
  #images = [];
  /** @type {WorkImage | null} */
  #current = null;
  #nextId = 1;
  #model = "";
  #opening = new AbortController();
  /** @type {{image: WorkImage, controller: AbortController} | null} */
  #running = null;

  /**
   * @param {object} parts
   * @param {import("../client/edgesam.js").Client} parts.client
   * @param {import("./stage.js").Stage} parts.stage shows the image in view
   * @param {import("./segmenter.js").Segmenter} parts.segmenter answers the prompts of the image in view
   * @param {(session: Session) => void} parts.use makes the session of the image in view the current one
   */
  constructor({ client, stage, segmenter, use }) {
    super();
    this.#client = client;
    this.#stage = stage;
    this.#segmenter = segmenter;
    this.#use = use;
    /** @type {(progress: import("../client/edgesam.js").Progress) => void} */
    this.onProgress = () => {};
    /** @type {(error: Error) => void} */
    this.onError = () => {};
  }

  /** The open images in their order. @returns {readonly WorkImage[]} */
  images() {
    return this.#images;
  }

  /** The image in view. @returns {WorkImage | null} */
  get current() {
    return this.#current;
  }

  /** Add images behind those that are open, and show the first of them. @param {File[]} files */
  async add(files) {
    let isFirst = true;
    for (const file of files) {
      const open = this.#images.find(({ source }) => source === sourceOf(file));
      if (open && isFirst) await this.show(open);
      if (open || (await this.#read(file, isFirst))) isFirst = false;
    }
  }

  /** Bring an image into view. @param {WorkImage} image */
  async show(image) {
    const { signal } = this.#newOpening();
    if (image === this.#current) {
      this.#embedNext(); // it may have failed before
      return;
    }
    try {
      const bitmap = await shownImage(image.file);
      if (signal.aborted) bitmap.close();
      else this.#enter(image, bitmap);
    } catch (error) {
      if (!signal.aborted) this.onError(error);
    }
  }

  /** Embed the image in view, if that failed before. @returns {boolean} whether it has to be embedded */
  retry() {
    if (!this.#current || this.#current.imageHash) return false;
    this.#embedNext();
    return true;
  }

  /**
   * Set the model that answers from now on. Masks of another one are dropped as soon as their image comes into view.
   *
   * @param {string} name
   * @param {boolean} isOther whether another model answered before
   */
  setModel(name, isOther) {
    this.#model = name;
    if (isOther) {
      this.#stopEmbedding();
      for (const image of this.#images) image.imageHash = "";
      this.#segmenter.setImage("");
    }
    if (this.#current) this.#dropForeignMasks(this.#current);
    this.#embedNext();
  }

  /** Embed the image in view, or, if it is embedded, the next one. */
  async #embedNext() {
    const image = this.#wanted();
    if (!image || this.#running?.image === image) return;
    this.#stopEmbedding();
    const controller = new AbortController();
    this.#running = { image, controller };
    try {
      await this.#embed(image, controller.signal);
    } catch (error) {
      if (controller.signal.aborted) return;
      this.#running = null;
      if (image === this.#current) this.onError(error);
      return; // an image that is not in view is embedded when it comes into view, with a message if that fails
    }
    if (controller.signal.aborted) return;
    this.#running = null;
    if (image === this.#current) this.#ready();
    this.#embedNext();
  }

  /** @param {WorkImage} image @param {AbortSignal} signal */
  async #embed(image, signal) {
    const isShown = image === this.#current;
    const bitmap = isShown ? this.#stage.image : await shownImage(image.file);
    const onProgress = (progress) => {
      if (image === this.#current && !signal.aborted) this.onProgress(progress);
    };
    try {
      signal.throwIfAborted();
      Object.assign(image, await embedAsShown(this.#client, image.file, bitmap, { signal, onProgress }));
    } finally {
      if (!isShown) bitmap.close();
    }
  }

  #wanted() {
    if (!this.#current) return null;
    if (!this.#current.imageHash) return this.#current;
    const next = this.#images[this.#images.indexOf(this.#current) + 1];
    return next && !next.imageHash ? next : null;
  }

  #stopEmbedding() {
    this.#running?.controller.abort();
    this.#running = null;
  }

  /** Decode a file and append it. @param {File} file @param {boolean} isShown @returns {Promise<boolean>} whether it worked */
  async #read(file, isShown) {
    const { signal } = isShown ? this.#newOpening() : new AbortController();
    let bitmap;
    try {
      bitmap = await shownImage(file);
    } catch (error) {
      this.onError(error);
      return false;
    }
    if (this.#images.length >= MAX_IMAGES) return false;
    const { width, height } = bitmap;
    const id = this.#nextId++;
    const image = { id, name: file.name, file, source: sourceOf(file), width, height, imageHash: "", model: "", session: new Session(), view: null };
    this.#images.push(image);
    this.dispatchEvent(new Event("change"));
    if (isShown && !signal.aborted) this.#enter(image, bitmap);
    else bitmap.close();
    return true;
  }

  #newOpening() {
    this.#opening.abort();
    this.#opening = new AbortController();
    return this.#opening;
  }

  /** @param {WorkImage} image @param {ImageBitmap} bitmap */
  #enter(image, bitmap) {
    if (this.#current) this.#current.view = this.#stage.chosenView;
    if (this.#running?.image !== image) this.#stopEmbedding();
    this.onProgress({ stage: "end", done: 1 });
    this.#segmenter.setImage("");
    this.#current = image;
    this.#dropForeignMasks(image);
    this.#use(image.session);
    this.#stage.show(bitmap, image.view);
    this.dispatchEvent(new Event("show"));
    this.dispatchEvent(new Event("change"));
    if (image.imageHash) this.#ready();
    this.#embedNext();
  }

  #ready() {
    this.#segmenter.setImage(this.#current.imageHash);
    this.dispatchEvent(new Event("embedded"));
  }

  /** @param {WorkImage} image */
  #dropForeignMasks(image) {
    if (image.model && this.#model && image.model !== this.#model) image.session.dropMasks();
    image.model = this.#model || image.model;
  }
}

/** Identifies a file: opened again, it is the same image. @param {File} file */
function sourceOf({ name, size, lastModified }) {
  return `${name} ${size} ${lastModified}`;
}
