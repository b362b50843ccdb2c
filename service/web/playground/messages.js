/** Short messages: a toast for the eyes, and an announcement for screen readers. */

const TOAST_MS = 2500;

let timer = 0;

/** Show a text for some seconds. @param {string} text */
export function toast(text) {
  const element = document.getElementById("toast");
  element.textContent = text;
  element.classList.add("is-shown");
  clearTimeout(timer);
  timer = setTimeout(() => element.classList.remove("is-shown"), TOAST_MS);
}

/** Announce a text to screen readers. @param {string} text */
export function announce(text) {
  document.getElementById("status").textContent = text;
}
