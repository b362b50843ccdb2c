/**
 * The images that are open. One of them is in view, and each has a session of its own.
 *
 * Only the image in view is kept decoded, since 50 decoded images of 12 megapixels would need 2.4 GB.
 *
 * @typedef {object} WorkImage
 * @property {number} id
 * @property {File} file the file that the service gets: the opened one, or a copy of what the browser shows; no two open
 *   images have the same file name
 * @property {string} source identifies the file that was opened
 * @property {number} width pixels of the upright image
 * @property {number} height
 * @property {Blob} thumbnail
 * @property {string} imageHash empty while the image is not embedded
 * @property {number} [embedMs] time of its embedding
 * @property {string} model name of the model that answered the session's prompts; empty if none did
 * @property {Session} session
 * @property {import("./viewport.js").View | null} view zoom and position; null shows the whole image
 *
 * @typedef {Omit<WorkImage, "imageHash" | "session"> & {dump: ReturnType<Session["dump"]>}} StoredImage
 */

import { EmbeddingQueue } from "./embedding_queue.js";
import { Session } from "./session.js";
import { openImage, shownImage } from "./shown_image.js";
import { thumbnailOf } from "./thumbnail.js";

export const MAX_IMAGES = 200;

/**
 * Fires `show` when another image, or none, comes into view; `embedded` when the one in view can be clicked on; `change`
 * when the list changes; `work` with the image as `detail` when its work changes; and `view` when the user zooms or pans.
 */
export class Workspace extends EventTarget {
  #client;
  #stage;
  #segmenter;
  #use;
  #queue;
  /** @type {WorkImage[]} */
  #images = [];
  /** @type {WorkImage | null} */
  #current = null;
  #nextId = Date.now(); // larger than those of earlier visits, which are restored later
  #model = "";
  #opening = new AbortController();
  #adding = new AbortController();
  /** @type {import("./shown_image.js").Limits | null} */
  #limits = null;

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
    this.#queue = new EmbeddingQueue(client, stage);
    this.#queue.onEmbedded = (image) => this.#embedded(image);
    this.#queue.onProgress = (progress) => this.onProgress(progress);
    this.#queue.onError = (error) => this.onError(error);
    stage.addEventListener("view", () => this.dispatchEvent(new Event("view")));
    /** @type {(progress: import("../client/edgesam.js").Progress) => void} */
    this.onProgress = () => {};
    /** @type {(error: Error & {code?: string}) => void} */
    this.onError = () => {};
    /** @type {(done: number, count: number) => void} called while several files are opened */
    this.onOpening = () => {};
  }

  /** The open images in their order. @returns {readonly WorkImage[]} */
  images() {
    return this.#images;
  }

  /** The image in view. @returns {WorkImage | null} */
  get current() {
    return this.#current;
  }

  /** The view that the user chose of an image. @param {WorkImage} image */
  viewOf(image) {
    return image === this.#current ? this.#stage.chosenView : image.view;
  }

  /** Add images behind those that are open, and show the first of them. @param {readonly File[]} files */
  async add(files) {
    const { signal } = this.#adding;
    const errors = [];
    let isFirst = true;
    for (const [i, file] of files.entries()) {
      if (signal.aborted) break;
      if (files.length > 1) this.onOpening(i, files.length);
      const open = this.#images.find(({ source }) => source === sourceOf(file));
      try {
        if (!open && (await this.#read(file, isFirst, signal))) errors.push(new SmallerCopy());
        else if (open && isFirst) await this.show(open);
        isFirst = false;
      } catch (error) {
        errors.push(error);
        if (error instanceof TooManyImages) break;
      }
    }
    this.onOpening(files.length, files.length);
    if (errors.length > 0) this.onError(files.length > 1 ? summary(errors) : errors[0]);
  }

  /** Bring an image into view. @param {WorkImage} image */
  async show(image) {
    const signal = this.#newOpening();
    if (image === this.#current) {
      this.#queue.next(this.#images, image); // it may have failed before
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

  /** Bring the image that is `steps` after the one in view into view. @param {number} steps negative for earlier ones */
  async step(steps) {
    const image = this.#images[this.#images.indexOf(this.#current) + steps];
    if (this.#current && image) await this.show(image);
  }

  /** Close an image and forget its work. @param {WorkImage} image */
  async close(image) {
    const at = this.#images.indexOf(image);
    if (at < 0) return;
    this.#images = this.#images.filter((other) => other !== image);
    this.#queue.cancel(image);
    if (!this.#images.some(({ imageHash }) => imageHash === image.imageHash)) this.#client.forget(image.imageHash);
    this.dispatchEvent(new Event("change"));
    if (image !== this.#current) return;
    const neighbour = this.#images[Math.min(at, this.#images.length - 1)];
    if (neighbour) await this.show(neighbour);
    if (image === this.#current) this.#enter(null, null); // there is no other, or it could not be shown
  }

  /** Close all images and forget all work. */
  clear() {
    this.#newOpening();
    this.#adding.abort();
    this.#adding = new AbortController();
    for (const image of this.#images) this.#client.forget(image.imageHash);
    this.#images = [];
    this.#queue.cancel();
    this.#enter(null, null);
  }

  /** Add images of an earlier visit. @param {StoredImage[]} stored @param {number} currentId id of the one that was in view */
  async restore(stored, currentId) {
    const restored = stored.map(({ dump, ...image }) => this.#watched({ ...image, imageHash: "", session: new Session() }));
    let error = null;
    for (const [i, { dump }] of stored.entries()) {
      try {
        restored[i].session.restore(dump);
      } catch {
        error = Object.assign(new Error("The dump has an unknown format."), { code: "old-work" });
      }
    }
    this.#nextId = Math.max(this.#nextId, ...restored.map(({ id }) => id + 1));
    this.#images = [...restored, ...this.#images];
    this.dispatchEvent(new Event("change"));
    const shown = restored.find(({ id }) => id === currentId) ?? restored[0];
    if (shown && !this.#current) await this.show(shown);
    if (error) this.onError(error);
  }

  /** Embed the image in view, if that failed before. @returns {boolean} whether it has to be embedded */
  retry() {
    if (!this.#current || this.#current.imageHash) return false;
    this.#queue.next(this.#images, this.#current);
    return true;
  }

  /**
   * Set the model that answers from now on. Masks of another one are dropped as soon as their image comes into view.
   *
   * @param {import("../client/edgesam.js").Model} model
   * @param {boolean} isOther whether another model answered before
   */
  setModel(model, isOther) {
    this.#model = model.name;
    this.#limits = /** @type {any} */ (model.limits ?? null); // older services tell none
    this.#queue.maxBytes = this.#limits?.max_image_bytes ?? Infinity;
    if (isOther) {
      this.#queue.cancel();
      for (const image of this.#images) image.imageHash = "";
      this.#segmenter.setImage("");
    }
    if (this.#current) this.#dropForeignMasks(this.#current);
    this.#queue.next(this.#images, this.#current);
  }

  /**
   * Decode a file and append it.
   *
   * @param {File} file
   * @param {boolean} isShown whether to bring it into view
   * @param {AbortSignal} adding aborted if the images are no longer wanted
   * @returns {Promise<boolean>} whether it is a smaller copy
   */
  async #read(file, isShown, adding) {
    const signal = isShown ? this.#newOpening() : new AbortController().signal;
    if (this.#images.length >= MAX_IMAGES) throw new TooManyImages();
    const { bitmap, isSmaller, ...opened } = await openImage(file, this.#limits);
    const { width, height } = bitmap;
    const thumbnail = await thumbnailOf(bitmap);
    if (adding.aborted) {
      bitmap.close();
      return false;
    }
    const image = this.#watched({
      ...{ id: this.#nextId++, file: this.#named(opened.file), source: sourceOf(file), width, height, thumbnail },
      ...{ imageHash: "", model: "", session: new Session(), view: null },
    });
    this.#images.push(image);
    if (isShown && !signal.aborted) this.#enter(image, bitmap);
    else bitmap.close();
    this.dispatchEvent(new Event("change"));
    return isSmaller;
  }

  /** The file under a name that no other image has. @param {File} file @param {WorkImage} [image] the image of the file */
  #named(file, image) {
    const taken = new Set(this.#images.filter((other) => other !== image).map((other) => other.file.name));
    const name = uniqueName(file.name, taken);
    return name === file.name ? file : new File([file], name, { type: file.type, lastModified: file.lastModified });
  }

  /** @param {WorkImage} image */
  #watched(image) {
    image.session.addEventListener("change", () => this.dispatchEvent(new CustomEvent("work", { detail: image })));
    return image;
  }

  #newOpening() {
    this.#opening.abort();
    this.#opening = new AbortController();
    return this.#opening.signal;
  }

  /** @param {WorkImage | null} image @param {ImageBitmap | null} bitmap */
  #enter(image, bitmap) {
    if (this.#current) this.#current.view = this.#stage.chosenView;
    this.#queue.leave(image);
    if (this.#current) this.#segmenter.leave(this.#current.session);
    this.#current = image;
    if (image) this.#dropForeignMasks(image);
    this.#use(image?.session ?? new Session());
    this.#stage.show(bitmap, image?.view);
    this.dispatchEvent(new Event("show"));
    this.dispatchEvent(new Event("change"));
    if (image?.imageHash) this.#embedded(image);
    else this.#queue.next(this.#images, image);
  }

  /** @param {WorkImage} image */
  #embedded(image) {
    image.file = this.#named(image.file, image); // a copy has another ending
    if (image === this.#current) {
      this.#segmenter.setImage(image.imageHash);
      this.dispatchEvent(new Event("embedded"));
    }
    this.dispatchEvent(new Event("change")); // the service may have got a copy of its file
    this.#queue.next(this.#images, this.#current);
  }

  /** @param {WorkImage} image */
  #dropForeignMasks(image) {
    if (image.model && this.#model && image.model !== this.#model) image.session.dropMasks();
    image.model = this.#model || image.model;
  }
}

/** More images than the page takes. */
class TooManyImages extends Error {
  code = "too-many-images";
}

/** Not a failure: the service takes no image as large as the opened one, so that a smaller copy is shown. */
class SmallerCopy extends Error {
  code = "smaller-copy";
}

/** One error for several files: the one that concerns all of them, or how many could not be opened. */
function summary(errors) {
  const special = errors.find(({ code }) => code !== "undisplayable-image");
  return special ?? Object.assign(new Error(`${errors.length} files`), { code: errors.length > 1 ? "undisplayable-images" : "undisplayable-image" });
}

/** Identifies a file: opened again, it is the same image. @param {File} file */
function sourceOf({ name, size, lastModified }) {
  return `${name} ${size} ${lastModified}`;
}

/** A file name that is not taken: `image-2.png` where there is an `image.png`. @param {string} name @param {Set<string>} taken */
function uniqueName(name, taken) {
  const [, stem, ending] = /^(.*?)(\.\w+)?$/s.exec(name);
  let unique = name;
  for (let number = 2; taken.has(unique); number++) unique = `${stem}-${number}${ending ?? ""}`;
  return unique;
}
