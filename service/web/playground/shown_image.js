/** Files as this browser shows them. */

/**
 * Decode an image file.
 *
 * @param {Blob} file
 * @returns {Promise<ImageBitmap>}
 * @throws {Undisplayable}
 */
export async function shownImage(file) {
  try {
    return await createImageBitmap(file);
  } catch (error) {
    throw new Undisplayable(error);
  }
}

/** This browser cannot show a file as an image. */
export class Undisplayable extends Error {
  code = "undisplayable-image";

  /** @param {unknown} cause */
  constructor(cause) {
    super("The browser cannot show the file.", { cause });
  }
}
