/** The browser's storage of this page. A browser may forbid it; values then last until the page is closed. */

/** @param {"localStorage" | "sessionStorage"} kind @param {string} name @returns {string | null} the stored value */
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
    // storage is forbidden or full
  }
}
