/** The image files among what was dropped or chosen, also of folders. */

const MAX_DEPTH = 4; // folders inside the dropped one
const MAX_ENTRIES = 5_000; // files and folders that are looked at; a dropped home folder has millions
const IMAGE_NAME = /\.(jpe?g|png|webp|avif|gif|bmp|tiff?|heic|heif|svg)$/i;

const byName = new Intl.Collator(undefined, { numeric: true }).compare;

/**
 * The image files that were dropped, those of folders sorted by name. Call it during the event: the browser empties its data
 * afterwards.
 *
 * @param {DataTransfer} data
 * @param {number} maxFiles
 * @returns {Promise<File[]>} without any image, the first dropped file, which then fails to open with a message
 */
export async function droppedFiles(data, maxFiles) {
  const entries = [...data.items].map((item) => item.webkitGetAsEntry?.() ?? null);
  const files = [...data.files];
  const folders = entries.filter((entry) => entry?.isDirectory);
  if (folders.length === 0) return imagesAmong(files);
  const reading = { found: /** @type {File[]} */ ([]), seen: 0, maxFiles };
  const names = new Set(folders.map(({ name }) => name)); // a dropped folder is also listed as a file without content
  const single = files.filter(({ name, type }) => !names.has(name) || type !== "");
  for (const folder of folders.sort((one, other) => byName(one.name, other.name))) await readFolder(folder, MAX_DEPTH, reading);
  return [...single.filter(isImage), ...reading.found];
}

/** The image files of a chosen folder, sorted by path. @param {Iterable<File>} files */
export function filesOfFolder(files) {
  const near = [...files].filter((file) => file.webkitRelativePath.split("/").length <= MAX_DEPTH + 2);
  return near.filter(isImage).sort((one, other) => byName(one.webkitRelativePath, other.webkitRelativePath));
}

/** The image files among these; without any the first file, which then fails to open with a message. @param {File[]} files */
export function imagesAmong(files) {
  const images = files.filter(isImage);
  return images.length > 0 ? images : files.slice(0, 1);
}

/** @param {File} file */
function isImage({ name, type }) {
  return type.startsWith("image/") || (type === "" && IMAGE_NAME.test(name)); // browsers do not know the type of all
}

async function readFolder(folder, depth, reading) {
  const reader = folder.createReader();
  const entries = [];
  for (let some; (some = await next(reader)).length > 0 && reading.seen < MAX_ENTRIES; reading.seen += some.length) entries.push(...some);
  entries.sort((one, other) => byName(one.name, other.name));
  for (const entry of entries) {
    if (reading.found.length > reading.maxFiles) return; // one more than the page takes, so that it says so
    if (entry.isDirectory) {
      if (depth > 0) await readFolder(entry, depth - 1, reading);
    } else if (IMAGE_NAME.test(entry.name)) {
      reading.found.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    }
  }
}

/** The next entries of a folder, some hundred at most; none at the end. @param {FileSystemDirectoryReader} reader */
function next(reader) {
  return new Promise((resolve, reject) => reader.readEntries(resolve, reject));
}
