/**
 * The classes of objects with their colours. They are kept in the browser for all images and visits.
 *
 * @typedef {{name: string, colour: string}} ObjectClass
 */

import { COLOURS } from "./colours.js";
import { recall, remember } from "./storage.js";

const KEY = "edgesam-classes";
const MAX_CLASSES = 1000;
const GOLDEN_ANGLE = 137.508; // hues of this distance differ well, however many there are

/** Fires `change` after each change. */
export class ClassList extends EventTarget {
  #read;
  #write;
  /** @type {ObjectClass[]} */
  #classes = [];

  /** @param {() => string | null} read @param {(text: string) => void} write where the list is kept */
  constructor(read, write) {
    super();
    this.#read = read;
    this.#write = write;
    this.#classes = parsed(this.#read());
  }

  /** In the order in which they were first used. @returns {readonly ObjectClass[]} */
  all() {
    return this.#classes;
  }

  /** The colour of a class; for a new one the colour that it would get. @param {string} name */
  colourOf(name) {
    return this.#find(name)?.colour ?? this.#freeColour();
  }

  /** Add the classes that are not there yet. @param {Iterable<string>} names */
  include(names) {
    for (const name of names) if (name && !this.#find(name)) this.#add(name);
  }

  /** @param {string} name @param {string} colour #rrggbb */
  setColour(name, colour) {
    this.#set(this.#classes.map((each) => (each.name === name ? { name, colour } : each)));
  }

  /** Give a class another name. If a class has that name, the two become one, with its colour. @param {string} name @param {string} newName */
  rename(name, newName) {
    if (this.#find(newName)) this.remove(name);
    else this.#set(this.#classes.map((each) => (each.name === name ? { ...each, name: newName } : each)));
  }

  /** @param {string} name */
  remove(name) {
    this.#set(this.#classes.filter((each) => each.name !== name));
  }

  #find(name) {
    return this.#classes.find((each) => each.name === name);
  }

  #add(name) {
    if (this.#classes.length < MAX_CLASSES) this.#set([...this.#classes, { name, colour: this.#freeColour() }]);
  }

  #freeColour() {
    const free = COLOURS.find((colour) => this.#classes.every((each) => each.colour !== colour));
    return free ?? ofHue((this.#classes.length * GOLDEN_ANGLE) % 360);
  }

  #set(classes) {
    this.#classes = classes;
    this.#write(JSON.stringify(classes));
    this.dispatchEvent(new Event("change"));
  }
}

/** The list of this browser. */
export const classes = new ClassList(
  () => recall("localStorage", KEY),
  (text) => remember("localStorage", KEY, text),
);

/** The colour of a class. @param {string} className @returns {string} #rrggbb */
export function colourOf(className) {
  return classes.colourOf(className);
}

/** The colour in which an object is drawn. @param {{className: string, colour: string}} object */
export function shownColour({ className, colour }) {
  return className ? colourOf(className) : colour;
}

/** The stored list; empty if it is not one. @param {string | null} text @returns {ObjectClass[]} */
function parsed(text) {
  try {
    const found = JSON.parse(text ?? "[]");
    const isClass = (each) => typeof each?.name === "string" && each.name !== "" && /^#[0-9a-f]{6}$/i.test(each.colour);
    return Array.isArray(found) ? found.filter(isClass).slice(0, MAX_CLASSES) : [];
  } catch {
    return [];
  }
}

/** A colour of middle lightness. @param {number} hue degrees @returns {string} #rrggbb */
function ofHue(hue) {
  const channel = (shift) => {
    const at = (shift + hue / 30) % 12;
    const value = 0.5 - 0.4 * Math.max(-1, Math.min(at - 3, 9 - at, 1));
    return Math.round(255 * value).toString(16).padStart(2, "0");
  };
  return `#${channel(0)}${channel(8)}${channel(4)}`;
}
