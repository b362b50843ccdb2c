/** Embeds one image, so that the service reads the pixels that the user sees. */

import { isShownAsRead, shownAsPng } from "./orientation.js";

/**
 * @typedef {(progress: import("../client/edgesam.js").Progress) => void} OnProgress
 * @typedef {{file: File, imageHash: string}} EmbeddedFile `file` is the one that the service has
 */

/**
 * @param {import("../client/edgesam.js").Client} client
 * @param {File} file
 * @param {ImageBitmap} shown the file as this browser shows it
 * @param {{signal: AbortSignal, onProgress: OnProgress}} options
 * @returns {Promise<EmbeddedFile>}
 * @throws {import("../client/edgesam.js").Problem | import("../client/edgesam.js").Unreachable} or the signal's reason
 */
export async function embedAsShown(client, file, shown, options) {
  const embedded = await client.embed(file, options);
  options.signal.throwIfAborted();
  const isSame = await isShownAsRead(file, shown, embedded);
  options.signal.throwIfAborted();
  if (isSame) return { file, imageHash: embedded.image_hash };
  // Clicks would go to other places than the ones that the user sees, so the service gets the pixels that are shown.
  client.forget(embedded.image_hash);
  const png = await shownAsPng(shown, file.name);
  options.signal.throwIfAborted();
  return { file: png, imageHash: (await client.embed(png, options)).image_hash };
}
