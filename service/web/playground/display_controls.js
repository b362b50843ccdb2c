/** How masks are drawn: their opacity, and whether they have an outline. */

import { recall, remember } from "./storage.js";

const OPACITY = "edgesam-opacity";
const OUTLINE = "edgesam-outline";

/**
 * @param {{opacity: HTMLInputElement, outline: HTMLInputElement}} parts `opacity` is a slider in percent
 * @param {import("./stage.js").Stage} stage
 */
export function installDisplayControls({ opacity, outline }, stage) {
  opacity.value = recall("localStorage", OPACITY) ?? opacity.value;
  outline.checked = recall("localStorage", OUTLINE) !== "none";
  const show = () => {
    stage.draw({ opacity: Number(opacity.value) / 100, showsOutline: outline.checked });
    remember("localStorage", OPACITY, opacity.value);
    remember("localStorage", OUTLINE, outline.checked ? "drawn" : "none");
  };
  opacity.addEventListener("input", show);
  outline.addEventListener("change", show);
  show();
}
