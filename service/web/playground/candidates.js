/** The candidate masks of an ambiguous click: what they are called, and the buttons that choose one. */

import { drawRaster, intersectionOverUnion, rasterOfRle } from "../client/masks.js";
import { shownColour } from "./classes.js";
import { channels } from "./colours.js";

const THUMB_SIDE = 72;
const LEAST_INSIDE = 0.9; // share of a smaller mask in a larger one that makes it a part
const LEAST_RATIO = 1.25; // of areas: masks of nearly one size are the same thing
/** Names of sizes that nest, smallest first, by their number. */
const SIZE_NAMES = [[], [], ["Part", "Object"], ["Part", "Object", "Whole"], ["Detail", "Part", "Object", "Whole"]];

/**
 * The names of masks: what they are of the object where their sizes nest, else their numbers.
 *
 * @param {import("../client/edgesam.js").Mask[]} masks best first
 * @returns {string[]} by mask; all differ
 */
export function candidateNames(masks) {
  const names = sizeNames(masks) ?? masks.map((_, i) => `Mask ${i + 1}`);
  return names.map((name, i) => {
    const earlier = names.slice(0, i).filter((each) => each === name).length;
    return earlier > 0 ? `${name} ${earlier + 1}` : name;
  });
}

/** @returns {string[] | null} null unless the sizes nest */
function sizeNames(masks) {
  const bySize = masks.filter(({ area }) => area > 0).sort((a, b) => a.area - b.area);
  const levels = new Map();
  let level = -1;
  for (const [i, mask] of bySize.entries()) {
    const smaller = bySize[i - 1];
    if (smaller && intersection(smaller, mask) < LEAST_INSIDE * smaller.area) return null;
    if (!smaller || mask.area >= LEAST_RATIO * smaller.area) level++;
    levels.set(mask, level);
  }
  const names = SIZE_NAMES[level + 1];
  return names?.length > 0 && bySize.length === masks.length ? masks.map((mask) => names[levels.get(mask)]) : null;
}

/** Pixels in both masks. */
function intersection(one, other) {
  const share = intersectionOverUnion(one.rle, other.rle);
  return (share * (one.area + other.area)) / (1 + share);
}

export class Candidates {
  #session;
  #group;
  #shown = null;
  #colour = "";

  /** @param {import("./session.js").Session} session @param {HTMLElement} group radio group in a section of its own */
  constructor(session, group) {
    this.#session = session;
    this.#group = group;
    group.addEventListener("keydown", (event) => this.#key(event));
  }

  update() {
    const { selected } = this.#session;
    const { masks, chosen } = this.#session.candidates(selected);
    const isOpen = masks.length > 1;
    const colour = shownColour(selected);
    this.#group.closest("section").hidden = !isOpen;
    if (masks !== this.#shown || colour !== this.#colour) {
      const names = candidateNames(masks);
      const buttons = isOpen ? masks.map((mask, i) => this.#newButton(mask, i, names[i], channels(colour))) : [];
      this.#group.replaceChildren(...buttons);
      this.#shown = masks;
      this.#colour = colour;
    }
    [...this.#group.children].forEach((child, i) => {
      const button = /** @type {HTMLElement} */ (child);
      button.setAttribute("aria-checked", String(i === chosen));
      button.tabIndex = i === chosen ? 0 : -1;
    });
  }

  #newButton(mask, i, name, colour) {
    const button = document.createElement("button");
    const canvas = document.createElement("canvas");
    const title = document.createElement("span");
    const [height, width] = mask.rle.size;
    const scale = THUMB_SIDE / Math.max(width, height);
    const size = { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
    button.type = "button";
    button.className = "candidate";
    button.setAttribute("role", "radio");
    button.setAttribute("aria-label", `${name}, score ${percent(mask.score)}`);
    button.title = `Score ${percent(mask.score)}`;
    title.textContent = name;
    button.append(drawRaster(canvas, rasterOfRle(mask.rle, size), colour), title);
    button.addEventListener("click", () => this.#session.choose(i));
    return button;
  }

  #key(event) {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.#session.choose(this.#session.candidates(this.#session.selected).chosen + step);
    /** @type {HTMLElement | null} */ (this.#group.querySelector("[aria-checked=true]"))?.focus();
  }
}

function percent(score) {
  return `${Math.round(100 * score)} %`;
}
