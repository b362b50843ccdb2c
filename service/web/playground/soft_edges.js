/**
 * Masks with soft edges, for cut-outs: from the service, which has the logits, or made of the mask itself.
 *
 * @typedef {{x0: number, y0: number, width: number, height: number, data: Uint8Array}} AlphaCrop alpha of a part of the
 *   image, row by row, 0..255; it is 0 outside
 * @typedef {import("../client/edgesam.js").Mask} Mask
 * @typedef {{prompts: import("../client/edgesam.js").Prompt[], options: object, imageId?: string}} SentPrompt arguments of
 *   `segment`; without an `imageId` it is the whole image
 */

import { rasterOfRle } from "../client/masks.js";

const INSIDE = 128; // least alpha of a pixel in the mask
const PROMPTS_PER_REQUEST = 16;

/**
 * The alpha of masks as the service computes it. Masks that the service does not answer again are missing.
 *
 * @param {import("../client/edgesam.js").Client} client
 * @param {string} imageHash
 * @param {{mask: Mask, sent: SentPrompt}[]} wanted masks with the prompts that they answered
 * @returns {Promise<Map<Mask, AlphaCrop>>}
 * @throws {import("../client/edgesam.js").Problem | import("../client/edgesam.js").Unreachable}
 */
export async function alphasOfService(client, imageHash, wanted) {
  const groups = Object.values(Object.groupBy(wanted, ({ sent }) => JSON.stringify([sent.imageId, sent.options])));
  const found = new Map();
  for (const group of groups) {
    for (let start = 0; start < group.length; start += PROMPTS_PER_REQUEST) {
      const part = group.slice(start, start + PROMPTS_PER_REQUEST);
      const prompts = part.flatMap(({ sent }) => sent.prompts);
      const options = /** @type {object} */ ({ ...part[0].sent.options, format: "alpha", crop: true });
      const { results } = await client.segment(part[0].sent.imageId || imageHash, prompts, options);
      for (const [i, { mask }] of part.entries()) {
        // The same prompt has the same masks, unless the service has evicted the mask that it refines.
        const same = results[i].masks.find((each) => each.mask_id === mask.mask_id);
        if (same) found.set(mask, await alphaOfPng(/** @type {string} */ (same.alpha), same.alpha_box));
      }
    }
  }
  return found;
}

/** The alpha of a mask with a border of one pixel of antialiasing. @param {Mask} mask @returns {AlphaCrop} */
export function antialiased(mask) {
  const { width, height, data } = rasterOfRle(mask.rle);
  const [x0, y0, x1, y1] = [Math.max(0, mask.box[0] - 1), Math.max(0, mask.box[1] - 1), Math.min(width, mask.box[2] + 1), Math.min(height, mask.box[3] + 1)];
  return smoothed({ width, height, data }, [x0, y0, x1, y1]);
}

/** The alpha of a mask without any soft pixel. @param {Mask} mask @returns {AlphaCrop} */
export function hard(mask) {
  const whole = rasterOfRle(mask.rle);
  const [x0, y0, x1, y1] = mask.box;
  const crop = { x0, y0, width: x1 - x0, height: y1 - y0, data: new Uint8Array((x1 - x0) * (y1 - y0)) };
  for (let y = y0, at = 0; y < y1; y++) for (let x = x0; x < x1; x++, at++) crop.data[at] = 255 * whole.data[y * whole.width + x];
  return crop;
}

/** The weights 1 2 1 along both axes. Pixels at the edge of the image repeat themselves outside. */
function smoothed({ width, height, data }, [x0, y0, x1, y1]) {
  const crop = { x0, y0, width: x1 - x0, height: y1 - y0, data: new Uint8Array((x1 - x0) * (y1 - y0)) };
  for (let y = y0, at = 0; y < y1; y++) {
    const rows = [Math.max(0, y - 1) * width, y * width, Math.min(height - 1, y + 1) * width];
    for (let x = x0; x < x1; x++, at++) {
      const [left, right] = [Math.max(0, x - 1), Math.min(width - 1, x + 1)];
      const [above, here, below] = rows.map((row) => data[row + left] + 2 * data[row + x] + data[row + right]);
      const value = Math.round((255 * (above + 2 * here + below)) / 16);
      crop.data[at] = data[rows[1] + x] ? Math.max(INSIDE, value) : Math.min(INSIDE - 1, value);
    }
  }
  return crop;
}

/** @param {string} png base64 of a grey PNG @param {import("../client/edgesam.js").Box} box @returns {Promise<AlphaCrop>} */
async function alphaOfPng(png, [x0, y0, x1, y1]) {
  const bytes = Uint8Array.from(atob(png), (character) => character.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }), { colorSpaceConversion: "none" });
  const [width, height] = [x1 - x0, y1 - y0];
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const pixels = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(width * height);
  for (let i = 0; i < data.length; i++) data[i] = pixels[4 * i];
  return { x0, y0, width, height, data };
}
