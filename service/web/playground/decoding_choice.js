/** The panel's section "Clicks": decode in this browser or in the service, and whether a click selects the whole object. */

import { BrowserDecoder } from "../browser_decoding/browser_decoder.js";
import { intersectionOverUnion } from "../client/masks.js";
import { recall, remember } from "./storage.js";

// Names under which browsers have stored the choices; a new name would lose them.
const IN_BROWSER_KEY = "edgesam-decode-here";
const WHOLE_OBJECT_KEY = "edgesam-grow-clicks";
const RUNTIME_BYTES = 4e6; // download of ONNX Runtime, compressed

export class DecodingChoice {
  #parts;
  #client;
  #segmenter;
  #strip;
  #browser = /** @type {BrowserDecoder | null} */ (null);
  #imageHash = "";
  #prompt = /** @type {import("./session.js").SessionPrompt | null} */ (null);

  /**
   * @param {Record<"section" | "wholeObjectRow" | "wholeObject" | "inBrowserRow" | "inBrowser" | "note" | "compare" |
   *   "comparison", any>} parts elements of index.html
   * @param {import("../client/edgesam.js").Client} client
   * @param {import("./segmenter.js").Segmenter} segmenter gets the chosen backend
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
    parts.wholeObject.addEventListener("change", () => {
      remember("localStorage", WHOLE_OBJECT_KEY, String(parts.wholeObject.checked));
      this.#apply();
    });
    parts.inBrowser.addEventListener("change", () => {
      remember("localStorage", IN_BROWSER_KEY, String(parts.inBrowser.checked));
      if (!parts.inBrowser.checked) this.#browser?.close();
      this.#apply();
      this.open().catch((error) => this.handleError(error));
    });
    parts.compare.addEventListener("click", () => this.#compare());
  }

  /** Whether this browser decodes clicks. */
  get isInBrowser() {
    return this.#browser !== null && this.#parts.inBrowser.checked;
  }

  /**
   * Show the choices that a model offers, and restore those of an earlier visit.
   *
   * @param {import("../client/edgesam.js").Model} model
   */
  offer(model) {
    const { section, wholeObjectRow, wholeObject, inBrowserRow, inBrowser, note } = this.#parts;
    const files = Object.values(model.files ?? {});
    const canDecode = files.length > 0 && typeof Worker === "function" && typeof WebAssembly === "object";
    this.#browser?.close();
    this.#browser = canDecode ? new BrowserDecoder(this.#client, model) : null;
    if (this.#browser) {
      this.#browser.onProgress = (progress) => this.onProgress(progress);
      this.#browser.onPrepared = (ms) => this.#strip.prepared(ms);
      const bytes = files.reduce((sum, { size_bytes: size }) => sum + size, RUNTIME_BYTES);
      const text = `Clicks then send no requests. Downloads ${Math.round(bytes / 1e6)} MB once.`;
      note.textContent = text;
      this.#browser.onLoaded = (threads) => {
        note.textContent = `${text} Uses ${threads === 1 ? "one processor core" : `${threads} processor cores`}.`;
        note.dataset.threads = String(threads);
      };
    }
    inBrowserRow.hidden = !canDecode;
    wholeObjectRow.hidden = !model.granularity;
    section.hidden = inBrowserRow.hidden && wholeObjectRow.hidden;
    inBrowser.checked = canDecode && recall("localStorage", IN_BROWSER_KEY) === "true";
    wholeObject.checked = model.granularity && recall("localStorage", WHOLE_OBJECT_KEY) === "true";
    this.#apply();
    this.open().catch((error) => this.handleError(error));
  }

  /**
   * Set the image and the selected prompt, which `Compare` uses.
   *
   * @param {string} imageHash empty while no image is embedded
   * @param {import("./session.js").SessionPrompt | null} prompt
   */
  show(imageHash, prompt) {
    if (prompt !== this.#prompt) this.#parts.comparison.textContent = "";
    this.#imageHash = imageHash;
    this.#prompt = prompt;
    this.#parts.compare.disabled = !imageHash || !prompt;
  }

  /** Prepare the image in this browser, if it decodes clicks. */
  async open() {
    if (this.isInBrowser && this.#imageHash) await this.#browser?.open(this.#imageHash);
  }

  /**
   * Handle a backend's error. Where this browser cannot decode, switch to the service.
   *
   * @param {Error & {code?: string}} error
   */
  handleError(error) {
    if (!this.#parts.inBrowser.checked) return; // the user switched the decoder off, which rejects its pending jobs
    if (error.code === "cannot-decode-here") {
      this.#parts.note.textContent = "This browser cannot do it. The service computes the masks, as before.";
      this.#parts.inBrowser.checked = false; // not stored: the user may come back with a newer browser
      this.#browser?.close();
      this.#apply();
    }
    this.onError(error);
  }

  #apply() {
    const { inBrowser, wholeObject, compare, comparison } = this.#parts;
    compare.hidden = !this.isInBrowser;
    comparison.textContent = "";
    wholeObject.disabled = this.isInBrowser; // the service finds the whole object from the image, not from its embedding
    this.#segmenter.selectsWholeObject = wholeObject.checked && !this.isInBrowser;
    this.#segmenter.setBackend(inBrowser.checked && this.#browser ? this.#browser : this.#client);
  }

  /** Send the selected prompt to the service, then to the browser's decoder, and show both times and the masks' IoU. */
  async #compare() {
    const { compare, comparison } = this.#parts;
    const [browser, prompt, imageHash] = [this.#browser, this.#prompt, this.#imageHash];
    if (!browser || !prompt) return;
    const { prompts: shared, options } = this.#segmenter.requestOf(prompt, undefined, { isForAll: true });
    compare.disabled = true;
    comparison.textContent = "…";
    try {
      const theirs = await this.#client.segment(imageHash, shared, options);
      const ours = await browser.segment(imageHash, shared, options);
      this.#strip.add(theirs.timing, "service");
      this.#strip.add(ours.timing, "browser");
      const [serviceMs, browserMs] = [theirs, ours].map(({ timing }) => Math.round(timing.roundTripMs));
      const iou = intersectionOverUnion(theirs.results[0].masks[0].rle, ours.results[0].masks[0].rle);
      const percent = (100 * iou).toFixed(2);
      comparison.textContent = `Service ${serviceMs} ms, this browser ${browserMs} ms. The masks share ${percent} % of their pixels.`;
      comparison.dataset.iou = String(iou);
    } catch (error) {
      comparison.textContent = "";
      this.handleError(error);
    } finally {
      compare.disabled = !this.#imageHash || !this.#prompt;
    }
  }
}
