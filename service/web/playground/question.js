/** Asks before something is lost. */

/**
 * @param {{title: string, text: string, action: string}} question `action` is the label of the button that says yes
 * @returns {Promise<boolean>} whether the user agrees
 */
export function ask({ title, text, action }) {
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("question"));
  document.getElementById("question-title").textContent = title;
  document.getElementById("question-text").textContent = text;
  document.getElementById("question-yes").textContent = action;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
