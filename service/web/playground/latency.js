/** The strip at the bottom: the stages of the last click in milliseconds, and percentiles since the page was opened. */

// Stages as the service names them, in their order. "other" and "network" are computed and come last.
const STAGES = ["cache_get", "wait", "queue", "prepare", "decode", "postprocess", "serialize"];
const MIN_LABELLED_MS = 0.5;
/** What the stages are called in the page. */
const NAMES = {
  cache_get: "look-up",
  wait: "waiting for the image",
  queue: "waiting",
  prepare: "preparing",
  decode: "model",
  postprocess: "mask",
  serialize: "packing",
  other: "other",
  network: "network",
};

/** @typedef {"service" | "browser"} Place where the decoder ran */

export class LatencyStrip {
  #element;
  /** @type {Record<Place, number[]>} */
  #roundTrips = { service: [], browser: [] };

  /** @param {HTMLElement} element contains the `data-part` elements of index.html */
  constructor(element) {
    this.#element = element;
  }

  /** @param {import("../client/edgesam.js").Timing} timing of one click @param {Place} [place] */
  add({ stages, roundTripMs }, place = "service") {
    this.#roundTrips[place].push(roundTripMs);
    const parts = split(stages, roundTripMs);
    const bar = this.#part("bar");
    bar.replaceChildren(...parts.map(([stage, ms]) => this.#segment(stage, ms)));
    const described = parts.filter(([, ms]) => ms >= MIN_LABELLED_MS);
    this.#part("legend").replaceChildren(...described.map(([stage, ms]) => this.#label(stage, ms)));
    bar.setAttribute("aria-label", parts.map(([stage, ms]) => `${NAMES[stage]} ${ms.toFixed(1)} ms`).join(", "));
    this.#part("last").textContent = `${Math.round(roundTripMs)} ms`;
    this.#part("p50").textContent = `${Math.round(percentile(this.#roundTrips[place], 0.5))}`;
    this.#part("p95").textContent = `${Math.round(percentile(this.#roundTrips[place], 0.95))}`;
    this.#comparePlaces(place);
    this.#element.classList.add("has-clicks");
  }

  /** Show how long this browser took to prepare the image. @param {number} ms */
  prepared(ms) {
    this.#part("prepared").textContent = `image prepared in ${Math.round(ms)} ms`;
  }

  /** Show which decoder answered last; once both have answered, show the other one's times too. */
  #comparePlaces(place) {
    const { service, browser } = this.#roundTrips;
    const count = service.length + browser.length;
    this.#part("count").textContent = count === 1 ? "1 click" : `${count} clicks`;
    this.#part("place").textContent = browser.length > 0 ? place : "";
    const [otherPlace, others] = place === "service" ? ["browser", browser] : ["service", service];
    const text = /** @type {HTMLElement} */ (this.#part("other"));
    text.hidden = others.length === 0;
    if (text.hidden) return;
    const [last, p50, p95] = [others[others.length - 1], percentile(others, 0.5), percentile(others, 0.95)].map(Math.round);
    text.textContent = `${otherPlace} ${last} ms (half under ${p50}, 95 % under ${p95})`;
  }

  #segment(stage, ms) {
    const segment = document.createElement("span");
    segment.className = `stage-${stage}`;
    segment.style.flexGrow = String(ms);
    return segment;
  }

  #label(stage, ms) {
    const label = document.createElement("span");
    const dot = document.createElement("i");
    dot.className = `stage-${stage}`;
    label.append(dot, `${NAMES[stage]} ${ms.toFixed(ms < 9.95 ? 1 : 0)}`);
    return label;
  }

  #part(name) {
    return this.#element.querySelector(`[data-part=${name}]`);
  }
}

/**
 * The parts of a round trip, in milliseconds. Their sum is the round trip.
 *
 * @param {Record<string, number>} stages milliseconds; `total` is the service's whole time for the request
 * @param {number} roundTripMs
 * @returns {[string, number][]}
 */
export function split(stages, roundTripMs) {
  const known = STAGES.filter((stage) => stages[stage] > 0).map((stage) => [stage, stages[stage]]);
  const sum = known.reduce((total, [, ms]) => total + ms, 0);
  const total = Math.max(sum, stages.total ?? 0);
  return [...known, ["other", total - sum], ["network", Math.max(0, roundTripMs - total)]];
}

/** Percentile by the nearest-rank method. @param {number[]} values at least one @param {number} rank 0..1 */
export function percentile(values, rank) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(rank * sorted.length) - 1)];
}
