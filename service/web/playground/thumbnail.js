/** The small image of the strip. */

const SIDE = 160; // CSS pixels of the strip's images, twice
const QUALITY = 0.8;

/** @param {ImageBitmap} bitmap @returns {Promise<Blob>} WebP, or PNG where the browser writes no WebP */
export async function thumbnailOf(bitmap) {
  const side = Math.min(bitmap.width, bitmap.height);
  const canvas = new OffscreenCanvas(Math.min(SIDE, side), Math.min(SIDE, side));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  const [x, y] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
  context.drawImage(bitmap, x, y, side, side, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/webp", quality: QUALITY });
}
