/** The panel "Use it from code": programs for the selected object, one in each tab. */

import { SNIPPETS } from "./code_snippets.js";
import { copyText } from "./clipboard.js";
import { toast } from "./messages.js";
import { cardAddress, licenceOf } from "./model_choice.js";

const NAMES = { curl: "the curl command", python: "the Python program", javascript: "the JavaScript program" };

export class CodePanel {
  #details;
  #request;
  #onError;

  /**
   * @param {HTMLDetailsElement} details
   * @param {() => import("./code_snippets.js").CodeRequest | null} request of the selected object; null if it has none
   * @param {(error: Error) => void} onError
   */
  constructor(details, request, onError) {
    this.#details = details;
    this.#request = request;
    this.#onError = onError;
    details.addEventListener("toggle", () => this.update());
    for (const tab of this.#tabs) tab.addEventListener("click", () => this.#show(tab));
    details.querySelector("[role=tablist]").addEventListener("keydown", (event) => this.#key(/** @type {KeyboardEvent} */ (event)));
    for (const name of Object.keys(SNIPPETS)) details.querySelector(`#copy-${name}`).addEventListener("click", () => this.#copy(name));
    this.#show(this.#tabs[0]);
  }

  /** Write the programs anew, if they are seen. */
  update() {
    const request = this.#request();
    for (const [name, write] of Object.entries(SNIPPETS)) {
      /** @type {HTMLButtonElement} */ (this.#details.querySelector(`#copy-${name}`)).disabled = request === null;
      if (!this.#details.open) continue;
      const text = request ? write(request) : "Click on an object first.";
      this.#details.querySelector(`#code-${name} code`).textContent = text;
    }
  }

  /** Link the model card, and say the licence. @param {import("../client/edgesam.js").Model} model @param {string} url address of the service */
  showModel(model, url) {
    const address = cardAddress(model, url);
    const link = /** @type {HTMLAnchorElement} */ (this.#details.querySelector("[data-part=card]"));
    link.hidden = address === null;
    if (address !== null) link.href = address;
    this.#details.querySelector("[data-part=licence]").textContent = `Service: Apache License 2.0. Model ${model.name}: ${licenceOf(model)}`;
  }

  /** @returns {HTMLButtonElement[]} */
  get #tabs() {
    return [...this.#details.querySelectorAll("[role=tab]")].map((tab) => /** @type {HTMLButtonElement} */ (tab));
  }

  /** @param {HTMLButtonElement} shown */
  #show(shown) {
    for (const tab of this.#tabs) {
      tab.setAttribute("aria-selected", String(tab === shown));
      tab.tabIndex = tab === shown ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = tab !== shown;
    }
  }

  #key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const tabs = this.#tabs;
    const next = tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length];
    this.#show(next);
    next.focus();
  }

  async #copy(name) {
    try {
      await copyText(SNIPPETS[name](this.#request()));
      toast(`Copied ${NAMES[name]}`);
    } catch (error) {
      this.#onError(error);
    }
  }
}
