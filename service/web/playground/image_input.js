/** Opening images: chosen in the file dialog, dropped on the page, pasted, or one of the samples. */

/**
 * @param {object} parts
 * @param {HTMLInputElement} parts.input file input
 * @param {Element[]} parts.openers buttons that open the file dialog
 * @param {Iterable<HTMLElement>} parts.samplers buttons that open the sample image in their `data-sample`
 * @param {HTMLElement} parts.dropMark shown while a file is dragged over the page
 * @param {(files: File[]) => void} onImages
 * @param {(error: Error) => void} onError
 */
export function installImageInput({ input, openers, samplers, dropMark }, onImages, onError) {
  const open = (files) => (files.length > 0 ? onImages(imagesAmong(files)) : onError(new NoImage()));
  for (const opener of openers) opener.addEventListener("click", () => input.click());
  for (const sampler of samplers) sampler.addEventListener("click", () => fetchSample(sampler.dataset.sample).then((file) => open([file]), onError));
  input.addEventListener("change", () => {
    if (input.files?.length) open([...input.files]);
    input.value = ""; // otherwise choosing the same file again fires no event
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length > 0) open(files);
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
    open([...(event.dataTransfer?.files ?? [])]);
  });
}

/** The user dropped or pasted something without a file. */
export class NoImage extends Error {
  code = "no-image";
}

/** The image files among these; without any the first file, which then fails to open with a message. @param {File[]} files */
function imagesAmong(files) {
  const images = files.filter(({ type }) => type.startsWith("image/"));
  return images.length > 0 ? images : files.slice(0, 1);
}

/** @param {string} name file name in the samples folder */
async function fetchSample(name) {
  const response = await fetch(new URL(`../samples/${name}`, import.meta.url)).catch((error) => {
    throw Object.assign(new Error("The sample could not be fetched.", { cause: error }), { code: "unreachable" });
  });
  return new File([await response.blob()], name, { type: "image/jpeg", lastModified: 0 });
}
