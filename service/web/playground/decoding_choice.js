/** Who answers clicks, the service or this browser, and how large an object they mean: a section of the panel. */

import { BrowserDecoder } from "../browser_decoding/browser_decoder.js";
import { intersectionOverUnion } from "../client/masks.js";
import { recall, remember } from "./storage.js";

const HERE = "edgesam-decode-here";
const GROW = "edgesam-grow-clicks";
const RUNTIME_BYTES = 4e6; // of ONNX Runtime, as it is sent

export class DecodingChoice {
  #parts;
  #client;
  #segmenter;
  #strip;
  #browser = /** @type {BrowserDecoder | null} */ (null);
  #imageHash = "";
  #prompt = /** @type {import("./session.js").SessionPrompt | null} */ (null);

  /**
   * @param {Record<"section" | "growRow" | "grow" | "hereRow" | "here" | "note" | "compare" | "comparison", any>} parts
   * @param {import("../client/edgesam.js").Client} client
   * @param {import("./segmenter.js").Segmenter} segmenter is told whom to ask
   * @param {import("./latency.js").LatencyStrip} strip
   */
  constructor(parts, client, segmenter, strip) {
    this.#parts = parts;
    this.#client = client;
    this.#segmenter = segmenter;
    this.#strip = strip;
    /** @type {(progress: import("../browser_decoding/browser_decoder.js").LoadProgress) => void} */
    this.onProgress = () => {};
    /** @type {(error: Error) => void} */
    this.onError = () => {};
    parts.grow.addEventListener("change", () => {
      remember("localStorage", GROW, String(parts.grow.checked));
      this.#apply();
    });
    parts.here.addEventListener("change", () => {
      remember("localStorage", HERE, String(parts.here.checked));
      if (!parts.here.checked) this.#browser?.close();
      this.#apply();
      this.open().catch((error) => this.failed(error));
    });
    parts.compare.addEventListener("click", () => this.#compare());
  }

  /** Whether clicks are answered in this browser. */
  get isHere() {
    return this.#browser !== null && this.#parts.here.checked;
  }

  /** What can be chosen with a model; what was chosen at an earlier visit is. @param {import("../client/edgesam.js").Model} model */
  offer(model) {
    const { section, growRow, grow, hereRow, here, note } = this.#parts;
    const files = Object.values(model.files ?? {});
    const canBeHere = files.length > 0 && typeof Worker === "function" && typeof WebAssembly === "object";
    this.#browser?.close();
    this.#browser = canBeHere ? new BrowserDecoder(this.#client, model) : null;
    if (this.#browser) {
      this.#browser.onProgress = (progress) => this.onProgress(progress);
      this.#browser.onPrepared = (ms) => this.#strip.prepared(ms);
      const bytes = files.reduce((sum, { size_bytes: size }) => sum + size, RUNTIME_BYTES);
      note.textContent = `Clicks are then no requests. Loads ${Math.round(bytes / 1e6)} MB once.`;
    }
    hereRow.hidden = !canBeHere;
    growRow.hidden = !model.granularity;
    section.hidden = hereRow.hidden && growRow.hidden;
    here.checked = canBeHere && recall("localStorage", HERE) === "true";
    grow.checked = model.granularity && recall("localStorage", GROW) === "true";
    this.#apply();
    this.open().catch((error) => this.failed(error));
  }

  /** What is shown and selected now. @param {string} imageHash @param {import("./session.js").SessionPrompt | null} prompt */
  show(imageHash, prompt) {
    if (prompt !== this.#prompt) this.#parts.comparison.textContent = "";
    this.#imageHash = imageHash;
    this.#prompt = prompt;
    this.#parts.compare.disabled = !imageHash || !prompt;
  }

  /** Make the picture ready where clicks are answered. */
  async open() {
    if (this.isHere && this.#imageHash) await this.#browser?.open(this.#imageHash);
  }

  /** An error of whoever was asked. The service takes over what this browser cannot do. @param {Error & {code?: string}} error */
  failed(error) {
    if (!this.#parts.here.checked) return; // what was switched off says that it has ended
    if (error.code === "cannot-decode-here") {
      this.#parts.note.textContent = "This browser cannot: the service decodes, as before.";
      this.#parts.here.checked = false; // not remembered: the next visit may find another browser
      this.#browser?.close();
      this.#apply();
    }
    this.onError(error);
  }

  #apply() {
    const { here, grow, compare, comparison } = this.#parts;
    compare.hidden = !this.isHere;
    comparison.textContent = "";
    grow.disabled = this.isHere; // an embedding does not tell what is in its picture
    this.#segmenter.growsClicks = grow.checked && !this.isHere;
    this.#segmenter.ask(here.checked && this.#browser ? this.#browser : this.#client);
  }

  /** The same click answered by both, one after the other. */
  async #compare() {
    const { compare, comparison } = this.#parts;
    const [browser, prompt, imageHash] = [this.#browser, this.#prompt, this.#imageHash];
    if (!browser || !prompt) return;
    const { prompts, options } = this.#segmenter.requestOf(prompt);
    const both = prompts.map(({ mask_id: _, ...known }) => known); // a mask that only one of them knows helps neither
    compare.disabled = true;
    comparison.textContent = "…";
    try {
      const theirs = await this.#client.segment(imageHash, both, options);
      const ours = await browser.segment(imageHash, both, options);
      this.#strip.add(theirs.timing, "service");
      this.#strip.add(ours.timing, "browser");
      const [there, here] = [theirs, ours].map(({ timing }) => Math.round(timing.roundTripMs));
      const agreement = intersectionOverUnion(theirs.results[0].masks[0].rle, ours.results[0].masks[0].rle);
      comparison.textContent = `Service ${there} ms, here ${here} ms. The masks share ${(100 * agreement).toFixed(2)} % of their pixels.`;
      comparison.dataset.iou = String(agreement);
    } catch (error) {
      comparison.textContent = "";
      this.failed(error);
    } finally {
      compare.disabled = !this.#imageHash || !this.#prompt;
    }
  }
}
