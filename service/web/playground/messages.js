/** Short messages: a toast, which screen readers say too, and an announcement for screen readers alone. */

const TOAST_MS = 2500;

let timer = 0;

/** Show a text for some seconds. @param {string} text */
export function toast(text) {
  const element = document.getElementById("toast");
  element.textContent = text;
  element.classList.add("is-shown");
  announce(text);
  clearTimeout(timer);
  timer = setTimeout(() => element.classList.remove("is-shown"), TOAST_MS);
}

/** Announce a text to screen readers. @param {string} text */
export function announce(text) {
  document.getElementById("status").textContent = text;
}
