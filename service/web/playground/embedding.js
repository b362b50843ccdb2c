/** Embeds one image, so that the service reads the pixels that the user sees. */

import { Problem } from "../client/edgesam.js";
import { isShownAsRead } from "./orientation.js";
import { shownAsFile } from "./shown_image.js";

/**
 * @typedef {{file: File, imageHash: string, embedMs?: number}} EmbeddedFile `file` is the one that the service has;
 *   `embedMs` is the time of its embedding, unless the service had it already
 */

/** Problems of a file that the service may read as a copy of what the browser shows. */
const UNREADABLE = new Set(["unsupported-image", "undecodable-image"]);

/**
 * @param {import("../client/edgesam.js").Client} client
 * @param {File} file
 * @param {ImageBitmap} shown the file as this browser shows it
 * @param {{signal: AbortSignal, onProgress: (progress: import("../client/edgesam.js").Progress) => void, maxBytes: number,
 *   prefetch?: boolean}} options `maxBytes` is the service's limit of a file, `prefetch` an option of `Client.embed`
 * @returns {Promise<EmbeddedFile>}
 * @throws {Problem | import("../client/edgesam.js").Unreachable} or the signal's reason
 */
export async function embedAsShown(client, file, shown, { maxBytes, ...options }) {
  const { signal } = options;
  const refusal = await embedded(client, file, shown, options);
  if (!refusal.error) return { file, imageHash: refusal.imageHash, embedMs: refusal.embedMs };
  const copy = await shownAsFile(shown, file.name, maxBytes);
  signal.throwIfAborted();
  if (!copy) throw refusal.error;
  return { file: copy, imageHash: (await client.embed(copy, options)).image_hash };
}

/**
 * Embed a file, and tell why a copy of it is needed.
 *
 * @returns {Promise<{imageHash: string, error: Error | null, embedMs?: number}>}
 */
async function embedded(client, file, shown, options) {
  try {
    const answer = await client.embed(file, options);
    options.signal.throwIfAborted();
    const isSame = await isShownAsRead(file, shown, answer);
    options.signal.throwIfAborted();
    const embedMs = answer.cached ? undefined : answer.timing.roundTripMs;
    if (isSame) return { imageHash: answer.image_hash, error: null, embedMs };
    // Clicks would go to other places than the ones that the user sees, so the service gets the pixels that are shown.
    client.forget(answer.image_hash);
    return { imageHash: "", error: new OtherPixels() };
  } catch (error) {
    if (error instanceof Problem && UNREADABLE.has(error.code)) return { imageHash: "", error };
    throw error;
  }
}

/** The service reads other pixels than the browser shows, and no copy has few enough bytes. */
class OtherPixels extends Error {
  code = "body-too-large";
}
