/** Image files as this browser shows them, and copies of what it shows for a service that cannot take the file. */

const SVG_SIDE = 1024; // least longer side of an SVG image, in pixels
const MAX_SVG_SIDE = 4096;
const SVG_TIMEOUT_MS = 10_000;
const MAX_PNG_PIXELS = 16e6; // a larger PNG of a photo takes seconds to write and exceeds the limit of most services
const JPEG_QUALITY = 0.93;
const SMALLER = 0.75; // factor of both sides, while a copy has too many bytes
const MAX_TRIES = 5;

/**
 * @typedef {{max_image_bytes: number, max_image_pixels: number}} Limits of the service
 * @typedef {{file: File, bitmap: ImageBitmap, isSmaller: boolean}} ShownFile `file` is what the service should get;
 *   `isSmaller` tells that it has fewer pixels than the file that was opened
 */

/** This browser cannot show a file as an image. */
export class Undisplayable extends Error {
  code = "undisplayable-image";

  /** @param {unknown} cause */
  constructor(cause) {
    super("The browser cannot show the file.", { cause });
  }
}

/**
 * Decode an image file.
 *
 * @param {Blob} file
 * @returns {Promise<ImageBitmap>}
 * @throws {Undisplayable}
 */
export async function shownImage(file) {
  try {
    return await (isSvg(file) ? drawnSvg(file) : createImageBitmap(file));
  } catch (error) {
    throw new Undisplayable(error);
  }
}

/**
 * Decode an image file, and copy it if the service would refuse it: an SVG image, too many bytes or too many pixels.
 *
 * @param {File} file
 * @param {Limits | null} limits null if they are not known yet
 * @returns {Promise<ShownFile>}
 * @throws {Undisplayable}
 */
export async function openImage(file, limits) {
  const bitmap = await shownImage(file);
  const { max_image_bytes: maxBytes = Infinity, max_image_pixels: maxPixels = Infinity } = limits ?? {};
  const pixels = bitmap.width * bitmap.height;
  if (pixels <= maxPixels && file.size <= maxBytes && !isSvg(file)) return { file, bitmap, isSmaller: false };
  try {
    return await copied(bitmap, file.name, Math.min(1, Math.sqrt(maxPixels / pixels)), maxBytes);
  } catch (error) {
    bitmap.close();
    throw new Undisplayable(error);
  }
}

/**
 * Write what the browser shows as an image file: PNG, or JPEG where that has too many bytes.
 *
 * @param {ImageBitmap} shown
 * @param {string} name file name; its ending is replaced
 * @param {number} maxBytes
 * @returns {Promise<File | null>} null if the JPEG has too many bytes, too
 */
export async function shownAsFile(shown, name, maxBytes = Infinity) {
  const canvas = new OffscreenCanvas(shown.width, shown.height);
  onWhite(canvas).drawImage(shown, 0, 0);
  const types = shown.width * shown.height <= MAX_PNG_PIXELS || maxBytes === Infinity ? ["png", "jpeg"] : ["jpeg"];
  for (const type of types) {
    const blob = await canvas.convertToBlob({ type: `image/${type}`, quality: JPEG_QUALITY });
    const ending = type === "png" ? "png" : "jpg";
    if (blob.size <= maxBytes) return new File([blob], `${name.replace(/\.\w+$/, "")}.${ending}`, { type: blob.type });
  }
  return null;
}

/** Copy an image, smaller by `factor` or by what its number of bytes needs. Closes `bitmap` unless it returns it. */
async function copied(bitmap, name, factor, maxBytes) {
  const { width, height } = bitmap;
  let shown = bitmap;
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    if (factor < 1) {
      const size = { width: Math.max(1, Math.floor(width * factor)), height: Math.max(1, Math.floor(height * factor)) };
      const smaller = await createImageBitmap(bitmap, { resizeWidth: size.width, resizeHeight: size.height, resizeQuality: "high" });
      if (shown !== bitmap) shown.close();
      shown = smaller;
    }
    const file = await shownAsFile(shown, name, maxBytes);
    if (file) {
      if (shown !== bitmap) bitmap.close();
      return { file, bitmap: shown, isSmaller: shown !== bitmap };
    }
    factor *= SMALLER;
  }
  throw new Error("No copy of the image has few enough bytes.");
}

/** @param {Blob} file */
function isSvg(file) {
  return file.type === "image/svg+xml";
}

/** Draw an SVG image, which `createImageBitmap` does not read in all browsers. @param {Blob} file */
async function drawnSvg(file) {
  const element = new Image();
  element.src = URL.createObjectURL(file);
  try {
    await Promise.race([element.decode(), expired(SVG_TIMEOUT_MS)]);
    const { width, height } = svgSize(element);
    const canvas = new OffscreenCanvas(width, height);
    onWhite(canvas).drawImage(element, 0, 0, width, height);
    return await createImageBitmap(canvas);
  } finally {
    URL.revokeObjectURL(element.src);
  }
}

/** The size to draw an SVG image in, in its proportions. Small ones are enlarged, which costs an SVG image no detail. */
function svgSize({ naturalWidth, naturalHeight }) {
  const longer = Math.max(naturalWidth, naturalHeight);
  if (longer === 0) return { width: SVG_SIDE, height: SVG_SIDE };
  const scale = Math.min(MAX_SVG_SIDE, Math.max(SVG_SIDE, longer)) / longer;
  return { width: Math.max(1, Math.round(naturalWidth * scale)), height: Math.max(1, Math.round(naturalHeight * scale)) };
}

/** The context of a canvas that is filled with white, as the service fills transparent pixels. @param {OffscreenCanvas} canvas */
function onWhite(canvas) {
  const context = canvas.getContext("2d");
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  return context;
}

function expired(ms) {
  return new Promise((_, reject) => setTimeout(() => reject(new Error("The image took too long to draw.")), ms));
}
