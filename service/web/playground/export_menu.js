/** The export menu: which objects of which images are exported, and in which format. */

import { Problem, Unreachable } from "../client/edgesam.js";
import { canCopyImages, copyImage, download } from "./clipboard.js";
import { shownColour } from "./classes.js";
import { EXPORTS, exported } from "./exports.js";
import { toast } from "./messages.js";
import { cutOut } from "./raster_exports.js";
import { shownImage } from "./shown_image.js";
import { alphasOfService, antialiased, hard } from "./soft_edges.js";
import { recall, remember } from "./storage.js";
import { cornersOf } from "./svg.js";

/**
 * @typedef {import("./exports.js").Work} Work
 * @typedef {import("./exports.js").ExportedObject} ExportedObject
 * @typedef {import("./workspace.js").WorkImage} WorkImage
 * @typedef {import("./session.js").Session} Session
 */

const TOLERANCE = "edgesam-svg-tolerance";
const EDGES = "edgesam-edges";
const COUNT_AFTER_MS = 200; // of rest, since counting takes a moment for large masks
const ANSWERS_TIMEOUT_MS = 5000; // a click that takes longer is left out, and the page says so

const element = (id) => document.getElementById(id);
const input = (id) => /** @type {HTMLInputElement} */ (element(id));

export class ExportMenu {
  #session;
  #workspace;
  #stage;
  #client;
  #segmenter;
  #onError;
  #counting = 0;
  #hasPlainEdges = false;

  /**
   * @param {object} parts
   * @param {Session} parts.session of the image in view
   * @param {import("./workspace.js").Workspace} parts.workspace
   * @param {import("./stage.js").Stage} parts.stage
   * @param {import("../client/edgesam.js").Client} parts.client
   * @param {import("./segmenter.js").Segmenter} parts.segmenter
   * @param {(error: Error) => void} parts.onError
   */
  constructor({ session, workspace, stage, client, segmenter, onError }) {
    this.#session = session;
    this.#workspace = workspace;
    this.#stage = stage;
    this.#client = client;
    this.#segmenter = segmenter;
    this.#onError = onError;
    /** @type {(images: readonly WorkImage[]) => void} called when the objects of these images were saved */
    this.onExported = () => {};
    input("svg-tolerance").value = recall("localStorage", TOLERANCE) ?? input("svg-tolerance").value;
    input("soft-edges").checked = recall("localStorage", EDGES) !== "hard";
    for (const id of Object.keys(EXPORTS)) element(id).addEventListener("click", () => this.#save(id));
    element("copy-cut-out").addEventListener("click", () => this.#copy());
    element("copy-cut-out").hidden = !canCopyImages;
    for (const id of ["only-selected", "all-images"]) element(id).addEventListener("change", () => this.update());
    input("svg-tolerance").addEventListener("input", () => this.#setTolerance());
    input("soft-edges").addEventListener("change", ({ target }) => {
      remember("localStorage", EDGES, /** @type {HTMLInputElement} */ (target).checked ? "soft" : "hard");
    });
    element("more-formats").addEventListener("toggle", () => this.#count());
    session.addEventListener("change", () => this.update());
    workspace.addEventListener("change", () => this.update());
    workspace.addEventListener("work", ({ detail: image }) => image !== workspace.current && this.update()); // a late answer
    this.#setTolerance();
    this.update();
  }

  /** The objects of the image in view that are exported. */
  get objects() {
    const { objects, selected } = this.#session;
    const isOnlySelected = input("only-selected").checked && objects.length > 1 && !this.#isOfAllImages;
    return exportedObjects(this.#session, isOnlySelected ? [selected] : objects);
  }

  update() {
    const filled = this.#filledImages();
    element("all-images-row").hidden = filled.length < 2;
    element("all-images-count").textContent = String(filled.length);
    element("only-selected-row").hidden = this.#session.objects.length < 2 || this.#isOfAllImages;
    const { objects } = this;
    const isNothing = this.#isOfAllImages ? filled.length === 0 : objects.length === 0;
    for (const id of Object.keys(EXPORTS)) /** @type {HTMLButtonElement} */ (element(id)).disabled = isNothing;
    /** @type {HTMLButtonElement} */ (element("copy-cut-out")).disabled = objects.length === 0;
    this.#count();
  }

  get #isOfAllImages() {
    return input("all-images").checked && this.#filledImages().length > 1;
  }

  /** The images that have objects to export. @returns {WorkImage[]} */
  #filledImages() {
    return this.#workspace.images().filter(({ session }) => session.objects.some((object) => session.mask(object)?.area > 0));
  }

  /** @returns {Work[]} */
  #works() {
    const { current } = this.#workspace;
    if (!this.#isOfAllImages) return [this.#work(current, this.objects)];
    return this.#filledImages().map((image) => this.#work(image, exportedObjects(image.session)));
  }

  /** @param {WorkImage} image @param {ExportedObject[]} objects @returns {Work} */
  #work(image, objects) {
    const { file, width, height } = image;
    return { file, image: { name: file.name, width, height }, objects, cutOut: () => this.#cutOut(image, objects) };
  }

  /** @param {WorkImage} image @param {ExportedObject[]} objects @returns {Promise<Blob>} PNG */
  async #cutOut(image, objects) {
    const alphas = await this.#alphas(image, objects);
    if (image === this.#workspace.current) return cutOut(this.#stage.image, alphas);
    const bitmap = await shownImage(image.file);
    try {
      return await cutOut(bitmap, alphas);
    } finally {
      bitmap.close();
    }
  }

  /** The alpha of each object: with soft edges those of the service, where it has the mask. @param {WorkImage} image @param {ExportedObject[]} objects */
  async #alphas(image, objects) {
    const { session } = image;
    if (!input("soft-edges").checked) return objects.map(({ mask }) => hard(mask));
    const wanted = session.objects.flatMap((object) => {
      const prompt = answeredPrompt(session, object);
      const mask = session.mask(object);
      const isAnswer = prompt !== null && !prompt.given && mask?.mask_id && objects.some((each) => each.mask === mask);
      return isAnswer ? [{ mask, sent: { ...this.#segmenter.requestOf(prompt, session), imageId: this.#segmenter.answeredBy(prompt) } }] : [];
    });
    const found = wanted.length > 0 ? await this.#ofService(image, wanted) : new Map();
    return objects.map(({ mask }) => found.get(mask) ?? antialiased(mask));
  }

  /** @param {WorkImage} image @param {{mask: import("../client/edgesam.js").Mask, sent: import("./soft_edges.js").SentPrompt}[]} wanted */
  async #ofService(image, wanted) {
    try {
      // After a reload, an image is embedded when it comes into view. This one may not have been in view.
      const imageHash = image.imageHash || (await this.#client.embed(image.file)).image_id;
      return await alphasOfService(this.#client, imageHash, wanted);
    } catch (error) {
      if (!(error instanceof Problem || error instanceof Unreachable)) throw error;
      this.#hasPlainEdges = true;
      return new Map();
    }
  }

  /** @param {string} id of the button */
  async #save(id) {
    const button = /** @type {HTMLButtonElement} */ (element(id));
    button.setAttribute("aria-busy", "true");
    await this.#try(async () => {
      await this.#segmenter.settled(ANSWERS_TIMEOUT_MS);
      if (!this.#workspace.current) return "Nothing was saved, since all images were closed";
      const { name, blob } = await exported(id, this.#works(), { tolerance: Number(input("svg-tolerance").value) });
      download(blob, name);
      this.onExported(this.#isOfAllImages ? this.#filledImages() : [this.#workspace.current]);
      const missing = this.#unanswered();
      return `Saved ${name}${missing ? `. ${missing} ${missing === 1 ? "object has" : "objects have"} no new mask yet` : ""}`;
    });
    button.removeAttribute("aria-busy");
  }

  /** How many objects wait for the mask of their last click: of the image in view, or of all images where all are wanted. */
  #unanswered() {
    const images = input("all-images").checked ? this.#workspace.images() : [this.#workspace.current];
    const waits = (session) => session.objects.filter(({ prompt }) => prompt && !session.isAnswered(prompt)).length;
    return images.reduce((count, { session }) => count + waits(session), 0);
  }

  #copy() {
    return this.#try(async () => {
      // The browser takes a promise: it has to know at once that the user asked for it.
      await copyImage(this.#cutOut(this.#workspace.current, this.objects));
      return "Copied the cut-out";
    });
  }

  /** @param {() => Promise<string>} act resolves to what it did */
  async #try(act) {
    this.#hasPlainEdges = false;
    try {
      const done = await act();
      toast(this.#hasPlainEdges ? `${done}. Its edges are not soft, because the service did not answer.` : done);
    } catch (error) {
      this.#onError(error);
    }
  }

  #setTolerance() {
    const { value } = input("svg-tolerance");
    remember("localStorage", TOLERANCE, value);
    element("svg-tolerance-value").textContent = Number(value) === 0 ? "exact" : `${value} px`;
    this.#count();
  }

  /** Show how many corners the SVG would have. */
  #count() {
    clearTimeout(this.#counting);
    if (!/** @type {HTMLDetailsElement} */ (element("more-formats")).open) return;
    this.#counting = setTimeout(() => {
      const corners = cornersOf(this.objects, Number(input("svg-tolerance").value));
      element("svg-corners").textContent = corners ? `${corners.toLocaleString("en")} ${corners === 1 ? "corner" : "corners"}` : "";
    }, COUNT_AFTER_MS);
  }
}

/** The objects with a mask that is not empty. @param {Session} session @param {Session["objects"]} [objects] @returns {ExportedObject[]} */
function exportedObjects(session, objects = session.objects) {
  return objects
    .map((object) => ({ name: object.name, className: object.className, colour: shownColour(object), mask: session.mask(object) }))
    .filter(({ mask }) => mask !== null && mask.area > 0);
}

/** The prompt that an object's mask answers. @param {Session} session @param {import("./objects.js").SessionObject} object */
function answeredPrompt(session, { prompt }) {
  let current = prompt;
  while (current && !session.isAnswered(current)) current = current.previous;
  return current;
}
