/** Shows how far the preparation of an image is. */

import { recall, remember } from "./storage.js";

const ANALYSIS_KEY = "edgesam-analysis-seconds";
const TEXTS = {
  hash: "Reading the image",
  "look-up": "Checking the image",
  upload: "Uploading the image",
  encode: "Analysing the image",
  decoder: "Downloading the model to this browser",
  prepare: "Preparing the image in this browser",
};

let analysisStart = 0;

/**
 * @param {{stage: string, done: number}} progress stage of `Progress` or `LoadProgress`; "end" hides the bar
 */
export function showProgress({ stage: name, done }) {
  const progress = document.getElementById("progress");
  progress.hidden = name === "end";
  noteAnalysis(name);
  if (progress.hidden) return;
  const isMeasured = name === "upload" || (["hash", "decoder"].includes(name) && done > 0);
  progress.classList.toggle("is-measured", isMeasured);
  document.getElementById("progress-bar").style.width = `${isMeasured ? Math.round(100 * done) : 100}%`;
  document.getElementById("progress-text").textContent = isMeasured ? `${TEXTS[name]} ${Math.round(100 * done)} %` : `${TEXTS[name]}${estimate(name)}…`;
}

/** Measure how long the service analyses images: the next one takes about as long. */
function noteAnalysis(name) {
  if (name === "encode") analysisStart ||= performance.now();
  else if (analysisStart) {
    remember("localStorage", ANALYSIS_KEY, String(Math.max(1, Math.round((performance.now() - analysisStart) / 1000))));
    analysisStart = 0;
  }
}

function estimate(name) {
  return name === "encode" ? `, about ${recall("localStorage", ANALYSIS_KEY) ?? 1} s` : "";
}
