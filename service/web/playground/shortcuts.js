/** Keyboard shortcuts of the page: each one clicks a button. */

/** Ids of the buttons, by key. */
const SHORTCUTS = {
  a: "include",
  s: "exclude",
  r: "box",
  b: "brush",
  e: "eraser",
  "[": "smaller-brush",
  "]": "larger-brush",
  h: "move",
  x: "flip-point",
  n: "add-object",
  f: "find-all",
  p: "cut-out",
  0: "zoom",
  "+": "zoom-in",
  "=": "zoom-in",
  "-": "zoom-out",
  "?": "help",
  pagedown: "next-image",
  pageup: "previous-image",
};
const REMOVING = ["delete", "backspace"];
const WITHOUT_IMAGE = ["help", "choose"]; // the only buttons with a use before an image is open

/** @param {() => boolean} hasImage tells whether an image is open */
export function installShortcuts(hasImage) {
  addEventListener("keydown", (event) => {
    if (takesKeys(event.target) || document.querySelector("dialog[open]")) return;
    const id = buttonOf(event);
    if (!id || !(hasImage() || WITHOUT_IMAGE.includes(id))) return;
    event.preventDefault();
    document.getElementById(id)?.click();
  });
}

/** Whether an element uses the keys itself: a field to write in, or a slider. @param {EventTarget | null} target */
function takesKeys(target) {
  return target instanceof HTMLInputElement && !["radio", "checkbox"].includes(target.type);
}

/** @param {KeyboardEvent} event @returns {string | undefined} id of the button */
function buttonOf({ key, ctrlKey, metaKey, altKey, shiftKey }) {
  const name = key.toLowerCase();
  if (ctrlKey || metaKey) return { z: shiftKey ? "redo" : "undo", y: "redo", s: "save-cut-out", o: "choose" }[name];
  if (altKey) return undefined;
  // What is selected on the image goes first. Without a selection, the whole prompt of the object goes.
  if (REMOVING.includes(name)) return document.getElementById("handle-bar").hidden ? "clear" : "remove-handle";
  return SHORTCUTS[name];
}
