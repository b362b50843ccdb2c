/** Opening images: chosen in the file dialog, dropped on the page, pasted, or the samples. */

import { droppedFiles, filesOfFolder, imagesAmong } from "./dropped_files.js";

/**
 * @param {object} parts
 * @param {HTMLInputElement} parts.input file input
 * @param {Element[]} parts.openers buttons that open the file dialog
 * @param {HTMLInputElement} parts.folderInput input of a folder
 * @param {HTMLElement[]} parts.folderOpeners buttons that open the dialog for a folder
 * @param {Iterable<HTMLElement>} parts.samplers buttons that open the sample images in their `data-sample`, separated by spaces
 * @param {HTMLElement} parts.dropMark shown while a file is dragged over the page
 * @param {number} maxFiles number of files that the page takes
 * @param {(files: File[]) => void} onImages
 * @param {(error: Error) => void} onError
 */
export function installImageInput({ input, openers, folderInput, folderOpeners, samplers, dropMark }, maxFiles, onImages, onError) {
  const open = (files) => (files.length > 0 ? onImages(files) : onError(new NoImage()));
  const openLater = (files) => files.then(open, onError);
  for (const opener of openers) opener.addEventListener("click", () => input.click());
  for (const sampler of samplers) sampler.addEventListener("click", () => openLater(fetchSamples(sampler.dataset.sample.split(" "))));
  input.addEventListener("change", () => {
    if (input.files?.length) open([...input.files]);
    input.value = ""; // otherwise choosing the same file again fires no event
  });
  const canOpenFolders = "webkitdirectory" in folderInput && !matchMedia("(pointer: coarse)").matches; // phones have no folders
  for (const opener of folderOpeners) {
    opener.hidden = !canOpenFolders;
    opener.addEventListener("click", () => folderInput.click());
  }
  folderInput.addEventListener("change", () => {
    if (folderInput.files?.length) open(filesOfFolder(folderInput.files));
    folderInput.value = "";
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length > 0) open(imagesAmong(files));
  });
  addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    dropMark.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) dropMark.hidden = true;
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    dropMark.hidden = true;
    if (event.dataTransfer) openLater(droppedFiles(event.dataTransfer, maxFiles));
  });
}

/** The user dropped, pasted or chose something without an image. */
export class NoImage extends Error {
  code = "no-image";
}

/** @param {string[]} names file names in the samples folder */
function fetchSamples(names) {
  return Promise.all(names.map(fetchSample));
}

/** @param {string} name file name in the samples folder */
async function fetchSample(name) {
  const response = await fetch(new URL(`../samples/${name}`, import.meta.url)).catch((error) => {
    throw Object.assign(new Error("The sample could not be fetched.", { cause: error }), { code: "unreachable" });
  });
  return new File([await response.blob()], name, { type: "image/jpeg", lastModified: 0 }); // always the same file
}
