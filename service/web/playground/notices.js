/**
 * Errors as what to do next.
 *
 * @typedef {"retry" | "open" | "key" | null} Remedy what the notice's button does
 * @typedef {{title: string, text: string, remedy: Remedy, label?: string}} Advice
 */

/** @type {Record<string, Advice>} */
const ADVICE = {
  unreachable: {
    title: "The service does not answer",
    text: "Your work is kept. As soon as the service is back, this page goes on by itself.",
    remedy: "retry",
  },
  timeout: {
    title: "The service took too long",
    text: "It may be busy, or the connection slow. Your work is kept.",
    remedy: "retry",
  },
  overloaded: {
    title: "The service is busy",
    text: "Many people click at the moment. Wait a few seconds, then try again.",
    remedy: "retry",
  },
  "not-ready": {
    title: "The service is restarting",
    text: "Your work is kept. This page goes on by itself in a moment.",
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
    title: "The service has forgotten the image",
    text: "Open it once more.",
    remedy: "open",
  },
  unauthorized: {
    title: "This service asks for an API key",
    text: "Ask whoever runs it for a key, and type it in here. It stays in this tab.",
    remedy: "key",
    label: "Enter key",
  },
  "unsupported-image": {
    title: "This file is no image the service reads",
    text: "Take a JPEG, PNG, WebP, GIF, BMP or TIFF file.",
    remedy: "open",
  },
  "undecodable-image": {
    title: "The image is broken or cut off",
    text: "Save it again from where it comes from, or take another one.",
    remedy: "open",
  },
  "image-too-large": {
    title: "The image has too many pixels",
    text: "Scale it down first, or take a smaller one.",
    remedy: "open",
  },
  "body-too-large": {
    title: "The file is too large",
    text: "Save it as JPEG, or scale it down first.",
    remedy: "open",
  },
  "body-timeout": {
    title: "The upload was too slow",
    text: "Try again with a better connection, or scale the image down first.",
    remedy: "retry",
  },
  "unusable-aspect-ratio": {
    title: "The image is too narrow",
    text: "Cut it to a less extreme shape first.",
    remedy: "open",
  },
  "undisplayable-image": {
    title: "This browser cannot show that file",
    text: "Save it as JPEG or PNG and open it again. (The service itself also reads BMP and TIFF.)",
    remedy: "open",
  },
  "cannot-decode-here": {
    title: "This browser cannot decode",
    text: "The service does it, as before.",
    remedy: null,
  },
  "model-changed": {
    title: "The service has another model now",
    text: "Save what you want to keep, then load this page again.",
    remedy: null,
  },
  "no-picture": {
    title: "There was no image in that",
    text: "Drop or paste an image file, such as a JPEG or PNG.",
    remedy: "open",
  },
};

const LABELS = { retry: "Try again", open: "Choose an image" };

/** What the page can wait for by itself. */
const PASSING = new Set(["unreachable", "not-ready"]);

/** @param {Error & {code?: string, requestId?: string}} error @returns {Advice} */
export function adviceOn(error) {
  const known = ADVICE[error.code ?? ""];
  if (known) return known;
  const id = error.requestId ? ` The service's log has it under ${error.requestId}.` : "";
  return { title: "That did not work", text: `${error.message}${id}`, remedy: "retry" };
}

export class Notice {
  #element;
  #remedies;
  #isBack;
  #probe = 0;

  /**
   * @param {HTMLElement} element with the parts of index.html
   * @param {Record<string, () => void>} remedies
   * @param {() => Promise<boolean>} isBack whether a service that was gone answers again
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
    const { title, text, remedy, label } = adviceOn(error);
    this.#part("title").textContent = title;
    this.#part("text").textContent = text;
    this.#part("action").textContent = label ?? LABELS[remedy ?? ""] ?? "";
    this.#element.dataset.remedy = remedy ?? "";
    this.#element.dataset.code = error.code ?? "";
    this.#element.hidden = false;
    clearTimeout(this.#probe);
    if (PASSING.has(error.code ?? "")) this.#waitForService(1000);
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
      if (this.#element.hidden || !PASSING.has(this.#element.dataset.code)) return;
      if (isBack) this.#remedy("retry");
      else this.#waitForService(Math.min(2 * ms, 8000));
    }, ms);
  }

  #part(name) {
    return this.#element.querySelector(`[data-part=${name}]`);
  }
}
