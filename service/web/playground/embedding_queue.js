/** Embeds the image in view, then the one after it, so that the next image can be clicked on at once. One at a time. */

import { embedAsShown } from "./embedding.js";
import { shownImage } from "./shown_image.js";

/** @typedef {import("./workspace.js").WorkImage} WorkImage */

export class EmbeddingQueue {
  #client;
  #stage;
  /** @type {{image: WorkImage, controller: AbortController} | null} */
  #running = null;
  /** @type {WorkImage | null} */
  #shown = null;
  /** @type {WeakSet<WorkImage>} */
  #failed = new WeakSet();

  /**
   * @param {import("../client/edgesam.js").Client} client
   * @param {import("./stage.js").Stage} stage has the pixels of the image in view
   */
  constructor(client, stage) {
    this.#client = client;
    this.#stage = stage;
    this.maxBytes = Infinity;
    /** @type {(image: WorkImage) => void} called when an image is embedded; the image has its hash */
    this.onEmbedded = () => {};
    /** @type {(progress: import("../client/edgesam.js").Progress) => void} progress of the image in view */
    this.onProgress = () => {};
    /** @type {(error: Error) => void} called if the image in view cannot be embedded */
    this.onError = () => {};
  }

  /**
   * Embed the image in view, or, if it is embedded, the next one.
   *
   * @param {readonly WorkImage[]} images
   * @param {WorkImage | null} shown
   */
  next(images, shown) {
    this.#shown = shown;
    const following = shown ? images[images.indexOf(shown) + 1] : undefined;
    const image = shown && !shown.imageHash ? shown : following;
    if (!image || image.imageHash || image === this.#running?.image) return;
    if (image !== shown && this.#failed.has(image)) return; // it is tried again when it comes into view
    this.cancel();
    this.#run(image);
  }

  /** Another image comes into view, and the pixels of the one before are closed. @param {WorkImage | null} image */
  leave(image) {
    if (this.#running?.image !== image) this.cancel();
    this.#shown = image;
    this.onProgress({ stage: "end", done: 1 });
  }

  /** Stop embedding. @param {WorkImage} [image] only if this one is embedded */
  cancel(image = this.#running?.image) {
    if (image !== this.#running?.image) return;
    this.#running?.controller.abort();
    this.#running = null;
  }

  /** @param {WorkImage} image */
  async #run(image) {
    const controller = new AbortController();
    this.#running = { image, controller };
    try {
      await this.#embed(image, controller.signal);
    } catch (error) {
      if (controller.signal.aborted) return;
      this.#running = null;
      this.#failed.add(image);
      if (image === this.#shown) this.onError(error);
      return;
    }
    if (controller.signal.aborted) return;
    this.#running = null;
    this.onEmbedded(image);
  }

  /** @param {WorkImage} image @param {AbortSignal} signal */
  async #embed(image, signal) {
    const isShown = image === this.#shown;
    const bitmap = isShown ? this.#stage.image : await shownImage(image.file);
    const onProgress = (progress) => {
      if (image === this.#shown && !signal.aborted) this.onProgress(progress);
    };
    try {
      signal.throwIfAborted();
      const options = { signal, onProgress, maxBytes: this.maxBytes, prefetch: true };
      const embedded = await embedAsShown(this.#client, image.file, bitmap, options);
      signal.throwIfAborted();
      Object.assign(image, embedded);
    } finally {
      if (!isShown) bitmap.close();
    }
  }
}
