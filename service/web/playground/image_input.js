/** Where images come from: chosen, dropped anywhere on the page, pasted, or one of the samples. */

/**
 * @param {object} parts
 * @param {HTMLInputElement} parts.input of type file
 * @param {Element[]} parts.openers open the file dialog
 * @param {Iterable<HTMLElement>} parts.samplers each takes the sample that its data-sample names
 * @param {HTMLElement} parts.dropMark shown while something is dragged over the page
 * @param {(file: File) => void} onPicture
 * @param {(error: Error) => void} onError
 */
export function installIntake({ input, openers, samplers, dropMark }, onPicture, onError) {
  const take = (file) => (file ? onPicture(file) : onError(new NoPicture()));
  for (const opener of openers) opener.addEventListener("click", () => input.click());
  for (const sampler of samplers) sampler.addEventListener("click", () => fetchSample(sampler.dataset.sample).then(onPicture, onError));
  input.addEventListener("change", () => {
    if (input.files?.[0]) take(input.files[0]);
    input.value = ""; // the same file may be chosen again
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length > 0) take(picture(files));
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
    take(picture([...(event.dataTransfer?.files ?? [])]));
  });
}

/** What was dropped or pasted has no picture in it. */
export class NoPicture extends Error {
  code = "no-picture";
}

function picture(files) {
  return files.find(({ type }) => type.startsWith("image/")) ?? files[0];
}

/** @param {string} name file in the folder of samples */
async function fetchSample(name) {
  const response = await fetch(new URL(`../samples/${name}`, import.meta.url)).catch((error) => {
    throw Object.assign(new Error("The sample could not be fetched.", { cause: error }), { code: "unreachable" });
  });
  return new File([await response.blob()], name, { type: "image/jpeg" });
}
