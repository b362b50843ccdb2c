/** Light and dark theme: the system's setting until the user switches. */

import { recall, remember } from "./storage.js";

const NAME = "edgesam-theme";
const THEMES = ["light", "dark"];

/** @param {HTMLElement} button switches the theme */
export function installTheme(button) {
  const root = document.documentElement;
  const isDark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const chosen = recall("localStorage", NAME);
  if (THEMES.includes(chosen)) root.dataset.theme = chosen;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remember("localStorage", NAME, root.dataset.theme);
  });
}
