/**
 * What `embed` takes as an image file, and how the service reads it.
 *
 * @typedef {Blob | ArrayBuffer | ArrayBufferView} ImageFile image file, as it is on disk: a Blob or File, or its bytes, such
 *   as a Buffer of Node
 * @typedef {"auto" | "full" | "minmax" | "percentile"} Levels how samples of more than 8 bits become grey levels
 * @typedef {{levels?: Levels, bands?: [red: number, green: number, blue: number] | string,
 *   region?: import("./edgesam.js").Box | null}} Reading how the service reads a file; bands are counted from 1; `region` is
 *   the part of the upright image that is embedded, in whole pixels, by default all of it; prompts and masks have the pixels
 *   of the whole image all the same
 */

/**
 * The file as a Blob, whose bytes do not change when the caller writes into its buffer again.
 *
 * @param {ImageFile} file
 * @returns {Blob}
 * @throws {TypeError} if it is neither a Blob nor bytes
 */
export function blobOf(file) {
  if (file instanceof ArrayBuffer || ArrayBuffer.isView(file)) return new Blob([/** @type {BlobPart} */ (file)]);
  // By its members, because the Blob of another frame has another class.
  if (typeof file?.arrayBuffer === "function" && typeof file.slice === "function") return file;
  throw new TypeError("An image file is a Blob, a File or bytes, such as the Buffer that readFile of node:fs/promises returns.");
}
