/** What the browser keeps for this page. It may forbid that altogether; then things last as long as the page. */

/** @param {"localStorage" | "sessionStorage"} kind @param {string} name @returns {string | null} */
export function recall(kind, name) {
  try {
    return globalThis[kind].getItem(name);
  } catch {
    return null;
  }
}

/** @param {"localStorage" | "sessionStorage"} kind @param {string} name @param {string} value */
export function remember(kind, name, value) {
  try {
    globalThis[kind].setItem(name, value);
  } catch {
    // forbidden, or full
  }
}
