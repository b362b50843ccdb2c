/**
 * The served models in words: their use, licence and model card; and the choice among several of them.
 *
 * @typedef {import("../client/edgesam.js").Model} Model
 */

import { recall, remember } from "./storage.js";

const MODEL_KEY = "edgesam-model";

export class ModelChoice {
  #parts;
  #client;
  /** @type {Model[]} */
  #models = [];

  /**
   * @param {object} parts elements of index.html
   * @param {HTMLElement[]} parts.places each gets a copy of the description
   * @param {HTMLTemplateElement} parts.template the description
   * @param {HTMLElement} parts.strip gets the name
   * @param {HTMLElement} parts.help section of the help that lists name, architecture, encoder and licence
   * @param {HTMLElement} parts.untrained warning of a model that is not trained
   * @param {import("../client/edgesam.js").Client} client gets the name of the chosen model
   */
  constructor(parts, client) {
    this.#parts = parts;
    this.#client = client;
    for (const place of parts.places) place.append(parts.template.content.cloneNode(true));
    /** @type {(model: Model, isOther: boolean) => void} called with the model, and whether another one answered before */
    this.onChoice = () => {};
  }

  /** Get the models from the service, and restore the choice of an earlier visit. */
  async load() {
    this.#models = await this.#client.models();
    for (const place of this.#parts.places) this.#fill(place);
    const chosen = this.#find(this.#client.model) ?? this.#find(recall("localStorage", MODEL_KEY)) ?? this.#models[0];
    this.#use(chosen);
  }

  /** @param {string | null} name */
  #find(name) {
    return this.#models.find((model) => model.name === name);
  }

  /** @param {Model} model */
  #use(model) {
    const first = this.#models[0].name;
    // A service with one model may get another one, and is then asked for whichever it has.
    const name = this.#models.length > 1 ? model.name : "";
    const isOther = (name || first) !== (this.#client.model || first);
    this.#client.model = name;
    this.#show(model);
    this.onChoice(model, isOther);
  }

  #show(model) {
    const { places, strip, help, untrained } = this.#parts;
    for (const place of places) this.#describe(place, model);
    strip.textContent = model.name;
    strip.title = `${model.architecture}. Licence: ${model.licence}`;
    for (const name of ["name", "architecture", "encoder", "licence"]) part(help, name).textContent = model[name];
    help.hidden = false;
    untrained.hidden = model.trained;
  }

  /** Show a radio button for each of several models. */
  #fill(place) {
    const list = part(place, "choices");
    const rows = this.#models.length > 1 ? this.#models.map((model) => this.#newRow(place, model)) : [];
    list.querySelectorAll("label").forEach((row) => row.remove());
    list.append(...rows);
    list.hidden = rows.length === 0;
    part(place, "summary").hidden = rows.length > 0;
    // Behind several models, the licence alone would seem to be that of the last one.
    part(place, "name").hidden = rows.length === 0 && place instanceof HTMLDetailsElement;
    if (place instanceof HTMLDetailsElement) place.open = rows.length > 0;
    place.hidden = false;
  }

  #newRow(place, model) {
    const row = document.createElement("label");
    const button = document.createElement("input");
    const words = document.createElement("span");
    const name = document.createElement("b");
    button.type = "radio";
    button.name = `model-${place.id}`; // two groups: the same choice stands in two places
    button.value = model.name;
    button.addEventListener("change", () => {
      remember("localStorage", MODEL_KEY, model.name);
      this.#use(model);
    });
    name.textContent = model.name;
    words.append(name, " – ", ...marked(useOf(model)));
    row.append(button, words);
    return row;
  }

  #describe(place, model) {
    for (const button of place.querySelectorAll("input")) button.checked = button.value === model.name;
    const title = place.querySelector("[data-part=title]");
    if (title) title.textContent = model.name;
    part(place, "name").textContent = `${model.name} –`;
    part(place, "summary").replaceChildren(...marked(useOf(model)));
    part(place, "licence").textContent = licenceOf(model);
    const address = cardAddress(model, this.#client.url);
    const link = /** @type {HTMLAnchorElement} */ (part(place, "card"));
    link.hidden = address === null;
    if (address !== null) link.href = address;
  }
}

/** What a model is for. Models of older artifacts say only what they are. @param {Model} model */
function useOf({ summary, architecture }) {
  return summary || `${architecture}.`;
}

/**
 * The licence in a sentence. A colon or an address ends its short form.
 *
 * @param {Pick<Model, "licence" | "commercial_use">} model
 */
export function licenceOf({ licence, commercial_use: commercialUse }) {
  const [short] = licence.split(/: |,? https?:/);
  const says = /commercial/i.test(short) || typeof commercialUse !== "boolean";
  const use = says ? "" : commercialUse ? " Commercial use is allowed." : " Commercial use is not allowed.";
  return `Licence: ${short}.${use}`;
}

/**
 * The address of a model card, null without one.
 *
 * @param {Pick<Model, "card">} model
 * @param {string} url address of the service, to which the card's may be relative
 */
export function cardAddress({ card }, url) {
  if (!card || !URL.canParse(card, url)) return null;
  const address = new URL(card, url);
  return ["http:", "https:"].includes(address.protocol) ? address.href : null;
}

/** The parts of a text; what stands between backticks becomes code. @param {string} text @returns {(string | Node)[]} */
function marked(text) {
  return text.split("`").map((piece, i) => {
    if (i % 2 === 0) return piece;
    const code = document.createElement("code");
    code.textContent = piece;
    return code;
  });
}

/** @param {HTMLElement} place @param {string} name @returns {HTMLElement} */
function part(place, name) {
  return /** @type {HTMLElement} */ (place.querySelector(`[data-part=${name}]`));
}
