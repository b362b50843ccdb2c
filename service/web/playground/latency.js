/** The strip at the bottom: where the milliseconds of the last click went, and the percentiles of this visit. */

// Stages as the service names them, in their order; the rest of its time and the way there and back come after them.
const STAGES = ["cache_get", "queue", "prepare", "decode", "postprocess", "serialize"];
const LEAST_LABELLED_MS = 0.5;

/** @typedef {"service" | "browser"} Place where a click was answered */

export class LatencyStrip {
  #element;
  /** @type {Record<Place, number[]>} */
  #roundTrips = { service: [], browser: [] };

  /** @param {HTMLElement} element with the parts of index.html */
  constructor(element) {
    this.#element = element;
  }

  /** @param {import("../client/edgesam.js").Timing} timing of one click @param {Place} [place] */
  add({ stages, roundTripMs }, place = "service") {
    this.#roundTrips[place].push(roundTripMs);
    const parts = split(stages, roundTripMs);
    const bar = this.#part("bar");
    bar.replaceChildren(...parts.map(([stage, ms]) => this.#segment(stage, ms)));
    const described = parts.filter(([, ms]) => ms >= LEAST_LABELLED_MS);
    this.#part("legend").replaceChildren(...described.map(([stage, ms]) => this.#label(stage, ms)));
    bar.setAttribute("aria-label", parts.map(([stage, ms]) => `${stage} ${ms.toFixed(1)} ms`).join(", "));
    this.#part("last").textContent = `${Math.round(roundTripMs)} ms`;
    this.#part("p50").textContent = `${Math.round(percentile(this.#roundTrips[place], 0.5))}`;
    this.#part("p95").textContent = `${Math.round(percentile(this.#roundTrips[place], 0.95))}`;
    this.#comparePlaces(place);
    this.#element.classList.add("has-clicks");
  }

  /** A picture was made ready in this browser. @param {number} ms */
  prepared(ms) {
    this.#part("prepared").textContent = `prepared here in ${Math.round(ms)} ms`;
  }

  /** Once both have answered, the strip says who was last, and how the other one is. */
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
    text.textContent = `${otherPlace} ${last} ms (p50 ${p50}, p95 ${p95})`;
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
    label.append(dot, `${stage.replace("_", " ")} ${ms.toFixed(ms < 9.95 ? 1 : 0)}`);
    return label;
  }

  #part(name) {
    return this.#element.querySelector(`[data-part=${name}]`);
  }
}

/**
 * The parts of a round trip; together they are all of it.
 *
 * @param {Record<string, number>} stages milliseconds; `total` is the service's whole time
 * @param {number} roundTripMs
 * @returns {[string, number][]}
 */
export function split(stages, roundTripMs) {
  const known = STAGES.filter((stage) => stages[stage] > 0).map((stage) => [stage, stages[stage]]);
  const sum = known.reduce((total, [, ms]) => total + ms, 0);
  const total = Math.max(sum, stages.total ?? 0);
  return [...known, ["other", total - sum], ["network", Math.max(0, roundTripMs - total)]];
}

/** Nearest rank. @param {number[]} values at least one @param {number} rank part of 1 */
export function percentile(values, rank) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(rank * sorted.length) - 1)];
}
