/**
 * Shows errors in a notice that says what happened and what to do.
 *
 * @typedef {"retry" | "open" | "key" | null} Remedy action of the notice's button; null: no button
 * @typedef {{title: string, text: string, remedy: Remedy, label?: string}} Advice
 */

/** @type {Record<string, Advice>} */
const ADVICE = {
  unreachable: {
    title: "The service does not answer",
    text: "Your work is kept. This page continues by itself when the service answers again.",
    remedy: "retry",
  },
  timeout: {
    title: "The service took too long",
    text: "It may be busy, or the connection may be slow. Your work is kept.",
    remedy: "retry",
  },
  overloaded: {
    title: "The service is busy",
    text: "Many people are using it. Wait a few seconds, then try again.",
    remedy: "retry",
  },
  "not-ready": {
    title: "The service is restarting",
    text: "Your work is kept. This page continues by itself when the service is ready.",
    remedy: "retry",
  },
  "cache-unavailable": {
    title: "The service's cache does not answer",
    text: "Try again in a few seconds.",
    remedy: "retry",
  },
  "deadline-exceeded": {
    title: "The service took too long",
    text: "It is busy. Try again in a few seconds.",
    remedy: "retry",
  },
  "embedding-not-found": {
    title: "The service no longer has this image",
    text: "Open the image again.",
    remedy: "open",
  },
  unauthorized: {
    title: "This service needs an API key",
    text: "Ask the operator of the service for a key and enter it. The key stays in this tab.",
    remedy: "key",
    label: "Enter key",
  },
  "unsupported-image": {
    title: "The service cannot read this file",
    text: "Choose a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF image.",
    remedy: "open",
  },
  "undecodable-image": {
    title: "The image file is damaged or incomplete",
    text: "Save the image again, or choose another one.",
    remedy: "open",
  },
  "image-too-large": {
    title: "The image has too many pixels",
    text: "Scale it down first, or choose a smaller image.",
    remedy: "open",
  },
  "body-too-large": {
    title: "The file is too large",
    text: "Save the image as JPEG, or scale it down first.",
    remedy: "open",
  },
  "body-timeout": {
    title: "The upload was too slow",
    text: "Try again with a better connection, or scale the image down first.",
    remedy: "retry",
  },
  "unusable-aspect-ratio": {
    title: "The image is too narrow",
    text: "Crop it to a less narrow shape first.",
    remedy: "open",
  },
  "undisplayable-image": {
    title: "This browser cannot show that file",
    text: "Save it as a JPEG or PNG image and open that.",
    remedy: "open",
  },
  "undisplayable-images": {
    title: "Some files could not be shown",
    text: "The other images are open. Save those files as JPEG or PNG images and open them again.",
    remedy: "open",
  },
  "too-many-images": {
    title: "That is the largest number of images",
    text: "Up to 200 images can be open. Close some of them to open others.",
    remedy: null,
  },
  "smaller-copy": {
    title: "This is a smaller copy",
    text: "The image is too large for this service. Masks and exports have the size of the copy.",
    remedy: null,
  },
  "storage-full": {
    title: "This browser has no space left for your work",
    text: "It will be lost when you close this page. Export it, or close some images.",
    remedy: null,
  },
  "old-work": {
    title: "Some earlier work could not be read",
    text: "Another version of this page made it. The images are open, and their objects are missing.",
    remedy: null,
  },
  "cannot-decode-here": {
    title: "This browser cannot compute masks",
    text: "The service computes them, as before.",
    remedy: null,
  },
  "cannot-find-all": {
    title: "This service cannot find all objects",
    text: "Click the objects one by one, or ask the operator of the service for a newer version.",
    remedy: null,
  },
  incomplete: {
    title: "The answer of the service broke off",
    text: "Your work is kept. Try again.",
    remedy: "retry",
  },
  "model-changed": {
    title: "The service has another model now",
    text: "Export the masks that you want to keep, then reload this page.",
    remedy: null,
  },
  "model-not-found": {
    title: "The service no longer has this model",
    text: "Export the masks that you want to keep, then reload this page.",
    remedy: null,
  },
  "no-image": {
    title: "That was not an image",
    text: "Drop or paste an image file, for example a JPEG or PNG.",
    remedy: "open",
  },
};

const LABELS = { retry: "Try again", open: "Choose an image" };

/** Codes of problems that end by themselves; the page waits for that. */
const TRANSIENT = new Set(["unreachable", "not-ready"]);

/** @param {Error & {code?: string, requestId?: string}} error @returns {Advice} */
export function adviceFor(error) {
  const known = ADVICE[error.code ?? ""];
  if (known) return known;
  const id = error.requestId ? ` The service's log has the details under ${error.requestId}.` : "";
  return { title: "That did not work", text: `${error.message}${id}`, remedy: "retry" };
}

export class Notice {
  #element;
  #remedies;
  #isBack;
  #probe = 0;

  /**
   * @param {HTMLElement} element contains the `data-part` elements of index.html
   * @param {Record<string, () => void>} remedies action of each `Remedy`
   * @param {() => Promise<boolean>} isBack tells whether the service answers again
   */
  constructor(element, remedies, isBack) {
    this.#element = element;
    this.#remedies = remedies;
    this.#isBack = isBack;
    this.#part("dismiss").addEventListener("click", () => this.hide());
    this.#part("action").addEventListener("click", () => this.#remedy(this.#element.dataset.remedy));
  }

  /** @param {Error & {code?: string}} error */
  show(error) {
    const { title, text, remedy, label } = adviceFor(error);
    this.#part("title").textContent = title;
    this.#part("text").textContent = text;
    this.#part("action").textContent = label ?? LABELS[remedy ?? ""] ?? "";
    this.#element.dataset.remedy = remedy ?? "";
    this.#element.dataset.code = error.code ?? "";
    this.#element.hidden = false;
    clearTimeout(this.#probe);
    if (TRANSIENT.has(error.code ?? "")) this.#waitForService(1000);
  }

  hide() {
    clearTimeout(this.#probe);
    this.#element.hidden = true;
  }

  #remedy(name) {
    this.hide();
    this.#remedies[name]?.();
  }

  #waitForService(ms) {
    this.#probe = setTimeout(async () => {
      const isBack = await this.#isBack();
      if (this.#element.hidden || !TRANSIENT.has(this.#element.dataset.code)) return;
      if (isBack) this.#remedy("retry");
      else this.#waitForService(Math.min(2 * ms, 8000));
    }, ms);
  }

  #part(name) {
    return this.#element.querySelector(`[data-part=${name}]`);
  }
}
