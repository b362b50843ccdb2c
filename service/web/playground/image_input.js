/** Opening images: chosen in the file dialog, dropped on the page, pasted, or one of the samples. */

/**
 * @param {object} parts
 * @param {HTMLInputElement} parts.input file input
 * @param {Element[]} parts.openers buttons that open the file dialog
 * @param {Iterable<HTMLElement>} parts.samplers buttons that open the sample image in their `data-sample`
 * @param {HTMLElement} parts.dropMark shown while a file is dragged over the page
 * @param {(file: File) => void} onImage
 * @param {(error: Error) => void} onError
 */
export function installImageInput({ input, openers, samplers, dropMark }, onImage, onError) {
  const open = (file) => (file ? onImage(file) : onError(new NoImage()));
  for (const opener of openers) opener.addEventListener("click", () => input.click());
  for (const sampler of samplers) sampler.addEventListener("click", () => fetchSample(sampler.dataset.sample).then(onImage, onError));
  input.addEventListener("change", () => {
    if (input.files?.[0]) open(input.files[0]);
    input.value = ""; // otherwise choosing the same file again fires no event
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length > 0) open(imageAmong(files));
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
    open(imageAmong([...(event.dataTransfer?.files ?? [])]));
  });
}

/** The user dropped or pasted something without a file. */
export class NoImage extends Error {
  code = "no-image";
}

/** The first image file; without one the first file, which then fails to open with a message. */
function imageAmong(files) {
  return files.find(({ type }) => type.startsWith("image/")) ?? files[0];
}

/** @param {string} name file name in the samples folder */
async function fetchSample(name) {
  const response = await fetch(new URL(`../samples/${name}`, import.meta.url)).catch((error) => {
    throw Object.assign(new Error("The sample could not be fetched.", { cause: error }), { code: "unreachable" });
  });
  return new File([await response.blob()], name, { type: "image/jpeg" });
}
