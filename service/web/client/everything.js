/**
 * Everything mode: the masks of all objects of an image, which the service sends one by one as it finds them.
 *
 * @typedef {import("./edgesam.js").Box} Box
 * @typedef {import("./edgesam.js").Polygon} Polygon
 * @typedef {import("./masks.js").Rle} Rle
 * @typedef {[x: number, y: number, width: number, height: number]} BoxAndSize pixels, as in COCO
 * @typedef {{id: number, segmentation?: Rle | string | Polygon[], area: number, bbox: BoxAndSize, predicted_iou: number,
 *   stability_score: number, point_coords: [number, number][], crop_box: BoxAndSize}} EverythingMask a record as SAM's
 *   generator makes it: `segmentation` has the format that was asked for, run lengths by default; `point_coords` is the
 *   point that found the mask; `crop_box` is the part of the image that was searched
 * @typedef {{image_hash: string, image_id: string, width: number, height: number, orientation: number, model: string,
 *   parameters: Record<string, any>, cached: string | null}} EverythingStart `parameters` has the values that were used,
 *   also those that come from the model
 * @typedef {EverythingStart & {masks: EverythingMask[], roundTripMs: number}} Everything masks best first
 * @typedef {({event: "start", prompts: number} & EverythingStart) | {event: "progress", done: number, prompts: number} |
 *   ({event: "mask"} & EverythingMask) | {event: "drop", ids: number[]} | {event: "end", ids: number[]}} EverythingEvent
 *   `drop` names masks that were sent before and that a better one, or the limit of masks, has removed
 * @typedef {{pointsPerSide?: number, predIouThresh?: number, stabilityScoreThresh?: number, stabilityScoreOffset?: number,
 *   boxNmsThresh?: number, minMaskRegionArea?: number, maxMasks?: number, fast?: boolean,
 *   format?: "rle" | "polygon" | "png" | "none", tolerancePixels?: number}} EverythingOptions SAM's names; values that are
 *   missing come from the model. `fast` places no point where a mask was found before
 */

import { Problem, Unreachable } from "./transport.js";

/**
 * The options in the JSON format of /segment/everything: `pointsPerSide` is `points_per_side` there.
 *
 * @param {EverythingOptions} options
 * @returns {Record<string, any>}
 */
export function everythingDocument(options) {
  const entries = Object.entries(options).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries.map(([name, value]) => [name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`), value]));
}

/**
 * Read the events of /segment/everything until its end.
 *
 * @param {AsyncIterable<string>} lines one JSON document each
 * @param {(event: EverythingEvent) => void} [onEvent] called with each event as it comes; an error that it throws ends the
 *   request
 * @returns {Promise<Everything>}
 * @throws {Problem} if the work failed after its start
 * @throws {Unreachable} with the code `incomplete` if the answer ends early or is not one of the service
 */
export async function readEverything(lines, onEvent) {
  const started = performance.now();
  /** @type {EverythingStart | null} */
  let start = null;
  /** @type {Map<number, EverythingMask>} */
  const found = new Map();
  for await (const line of lines) {
    const event = parsed(line);
    if (event.event === "error") throw new Problem(event.problem);
    if ((start === null) !== (event.event === "start")) throw new Unreachable("incomplete");
    if (event.event === "start") start = startOf(event);
    if (event.event === "mask") found.set(event.id, maskOf(event));
    if (event.event === "drop") for (const id of event.ids) found.delete(id);
    onEvent?.(event);
    if (event.event !== "end") continue;
    const ids = /** @type {number[]} */ (event.ids);
    if (!ids.every((id) => found.has(id))) throw new Unreachable("incomplete");
    const masks = ids.map((id) => /** @type {EverythingMask} */ (found.get(id)));
    return { .../** @type {EverythingStart} */ (start), masks, roundTripMs: performance.now() - started };
  }
  throw new Unreachable("incomplete");
}

/**
 * A mask of everything mode with the members of a mask of `segment` that have the same meaning, for code that draws or
 * exports both.
 *
 * @param {EverythingMask} mask with run lengths
 * @returns {{rle: Rle, area: number, box: Box, score: number, stability: number, predicted_iou: number}}
 */
export function maskOfEverything({ segmentation, area, bbox: [x, y, width, height], predicted_iou, stability_score }) {
  return {
    rle: /** @type {Rle} */ (segmentation),
    area,
    box: [x, y, x + width, y + height],
    score: predicted_iou,
    stability: stability_score,
    predicted_iou,
  };
}

/** @param {string} line @returns {any} a JSON object whose lists are lists */
function parsed(line) {
  try {
    const event = JSON.parse(line);
    if (typeof event?.event === "string" && Array.isArray(event.ids ?? [])) return event;
  } catch {
    // not JSON: reported below
  }
  throw new Unreachable("incomplete");
}

/** @param {any} event checked by `parsed` @returns {EverythingStart} */
function startOf({ event: _event, prompts: _prompts, ...start }) {
  return start;
}

/** @param {any} event checked by `parsed` @returns {EverythingMask} */
function maskOf({ event: _event, ...mask }) {
  return mask;
}
