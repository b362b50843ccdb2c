/** Shows how far the preparation of an image is. */

const TEXTS = {
  hash: "Reading the image",
  "look-up": "Checking the image",
  upload: "Uploading the image",
  encode: "Preparing the image",
  decoder: "Downloading the decoder",
  prepare: "Preparing the image",
};

/**
 * @param {{stage: string, done: number}} progress stage of `Progress` or `LoadProgress`; "end" hides the bar
 */
export function showProgress({ stage: name, done }) {
  const progress = document.getElementById("progress");
  progress.hidden = name === "end";
  if (progress.hidden) return;
  const isMeasured = name === "upload" || (["hash", "decoder"].includes(name) && done > 0);
  progress.classList.toggle("is-measured", isMeasured);
  document.getElementById("progress-bar").style.width = `${isMeasured ? Math.round(100 * done) : 100}%`;
  document.getElementById("progress-text").textContent = isMeasured ? `${TEXTS[name]} ${Math.round(100 * done)} %` : `${TEXTS[name]}…`;
}
