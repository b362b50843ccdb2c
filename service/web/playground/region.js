/**
 * "Sharper here": embeds the part of an image that is in view by itself, so that clicks in it see more detail.
 *
 * @typedef {import("../client/edgesam.js").Box} Box
 * @typedef {import("./session.js").SessionPrompt} SessionPrompt
 * @typedef {import("./workspace.js").WorkImage} WorkImage
 * @typedef {{box: Box, imageId: string, whole: string, model: string}} Region `whole` is the hash of the image that was
 *   embedded when the region was
 */

import { announce } from "./messages.js";

const FRAME_SIDE = 1024; // of the model's input; an image of more pixels loses detail in it
const LEAST_GAIN = 3; // an image has so many times the longer side of the part in view
const LEAST_SIDE = 256; // pixels of the image; the model needs the surroundings of an object
const MAX_REGIONS = 16; // of one image

/**
 * The region that shows what is in view in more detail, or null if the image itself is nearly as good.
 *
 * @param {{x: number, y: number}} from upper left corner of the view, in pixels of the image
 * @param {{x: number, y: number}} to lower right corner
 * @param {{width: number, height: number}} image
 * @returns {Box | null}
 */
export function regionInView(from, to, { width, height }) {
  const [x0, x1] = side(from.x, to.x, width);
  const [y0, y1] = side(from.y, to.y, height);
  const longest = Math.max(x1 - x0, y1 - y0);
  const isSmall = Math.min(x1 - x0, y1 - y0) > 0 && LEAST_GAIN * longest <= Math.max(width, height);
  return isSmall && Math.max(width, height) > FRAME_SIDE ? [x0, y0, x1, y1] : null;
}

/** Both ends of a region along one axis. @param {number} from @param {number} to @param {number} length of the image */
function side(from, to, length) {
  const [start, end] = [Math.max(0, from), Math.min(length, to)];
  if (end - start <= 0) return [0, 0];
  const wanted = Math.min(length, Math.max(LEAST_SIDE, Math.floor(end - start)));
  const first = Math.round((start + end - wanted) / 2);
  const clamped = Math.min(length - wanted, Math.max(0, first));
  return [clamped, clamped + wanted];
}

/**
 * Whether a region can answer a prompt: its points, its box and the mask that it changes lie inside.
 *
 * @param {Box} region
 * @param {SessionPrompt} prompt
 */
export function holds([x0, y0, x1, y1], { points, box, given, refined }) {
  const boxes = [box, given?.box, refined?.box].filter(Boolean);
  const corners = [...points, ...boxes.flatMap((each) => [{ x: each[0], y: each[1] }, { x: each[2], y: each[3] }])];
  return corners.length > 0 && corners.every(({ x, y }) => x >= x0 && y >= y0 && x <= x1 && y <= y1);
}

/** A time in words, for a button. @param {number | undefined} ms */
export function duration(ms) {
  if (!ms) return "some seconds";
  return ms < 1000 ? "about 1 s" : `about ${Math.round(ms / 1000)} s`;
}

export class Regions {
  #parts;
  #button;
  /** @type {WeakMap<WorkImage, Region[]>} */
  #regions = new WeakMap();
  #running = /** @type {AbortController | null} */ (null);
  #lastMs = /** @type {number | undefined} */ (undefined);

  /**
   * @param {HTMLButtonElement} button offers the region in view
   * @param {object} parts
   * @param {import("../client/edgesam.js").Client} parts.client
   * @param {import("./stage.js").Stage} parts.stage draws the outlines
   * @param {import("./segmenter.js").Segmenter} parts.segmenter asks which image answers a prompt
   * @param {import("./workspace.js").Workspace} parts.workspace
   * @param {(progress: import("../client/edgesam.js").Progress) => void} parts.onProgress
   * @param {(error: Error) => void} parts.onError
   */
  constructor(button, parts) {
    this.#button = button;
    this.#parts = parts;
    parts.segmenter.imageOf = (prompt, imageHash) => this.#imageOf(prompt, imageHash);
    button.addEventListener("click", () => this.#embed());
    parts.stage.addEventListener("view", () => this.#update());
    for (const event of ["show", "embedded", "change"]) parts.workspace.addEventListener(event, () => this.#update());
    parts.workspace.addEventListener("show", () => this.#running?.abort());
    this.#update();
  }

  /** The regions of the image in view that can answer. @returns {Region[]} */
  get #usable() {
    const image = this.#parts.workspace.current;
    const regions = (image && this.#regions.get(image)) ?? [];
    const { model } = this.#parts.client;
    return regions.filter((each) => each.whole === image?.imageHash && each.model === model);
  }

  /** The smallest region that holds a prompt, else the image. @param {SessionPrompt} prompt @param {string} imageHash */
  #imageOf(prompt, imageHash) {
    const fitting = this.#usable.filter(({ box }) => holds(box, prompt));
    const best = fitting.reduce((found, each) => (found && area(found.box) <= area(each.box) ? found : each), null);
    return best?.imageId ?? imageHash;
  }

  /** The region to offer, or null. */
  get #offered() {
    const { stage, workspace } = this.#parts;
    const image = workspace.current;
    if (!image?.imageHash || !stage.image) return null;
    const { clientWidth, clientHeight } = /** @type {HTMLElement} */ (this.#button.parentElement);
    const box = regionInView(stage.unproject({ x: 0, y: 0 }), stage.unproject({ x: clientWidth, y: clientHeight }), image);
    const isCovered = box && this.#usable.some((each) => covers(each.box, box) && area(each.box) < 4 * area(box));
    return isCovered ? null : box;
  }

  #update() {
    const button = this.#button;
    const isRunning = this.#running !== null;
    button.hidden = !isRunning && this.#offered === null;
    button.disabled = isRunning;
    const ms = this.#lastMs ?? this.#parts.workspace.current?.embedMs;
    button.querySelector("span").textContent = isRunning ? "Looking closer…" : `Sharper here, ${duration(ms)}`;
    this.#parts.stage.draw({ regions: this.#usable.map(({ box }) => box) });
  }

  async #embed() {
    const { client, workspace, onProgress, onError } = this.#parts;
    const [image, box] = [workspace.current, this.#offered];
    if (!image || !box || this.#running) return;
    const controller = new AbortController();
    this.#running = controller;
    this.#update();
    const started = performance.now();
    const [whole, model] = [image.imageHash, client.model];
    try {
      const { image_id: imageId } = await client.embed(image.file, { region: box, signal: controller.signal, onProgress });
      this.#lastMs = performance.now() - started;
      this.#keep(image, { box, imageId, whole, model });
      announce("Clicks inside the outline see more detail now.");
    } catch (error) {
      if (!controller.signal.aborted) onError(error);
    } finally {
      this.#running = null;
      onProgress({ stage: "end", done: 1 });
      this.#update();
    }
  }

  /** @param {WorkImage} image @param {Region} region */
  #keep(image, region) {
    const regions = [...(this.#regions.get(image) ?? []), region];
    for (const old of regions.splice(0, Math.max(0, regions.length - MAX_REGIONS))) this.#parts.client.forget(old.imageId);
    this.#regions.set(image, regions);
  }
}

/** @param {Box} box */
function area([x0, y0, x1, y1]) {
  return (x1 - x0) * (y1 - y0);
}

/** @param {Box} outer @param {Box} inner */
function covers(outer, inner) {
  return outer[0] <= inner[0] && outer[1] <= inner[1] && outer[2] >= inner[2] && outer[3] >= inner[3];
}
