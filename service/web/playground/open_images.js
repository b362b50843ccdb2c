/** The open images in the page: opening, the strip of thumbnails, keeping them in this browser, closing and starting over. */

import { classes } from "./classes.js";
import { installImageInput } from "./image_input.js";
import { toast } from "./messages.js";
import { ask } from "./question.js";
import { Thumbnails, objectCount } from "./thumbnails.js";
import { WorkKeeper } from "./work_keeper.js";
import { MAX_IMAGES } from "./workspace.js";

/** What the page says about keeping the work. @type {Record<import("./work_keeper.js").KeepingState, string>} */
const NOTES = {
  starting: "",
  kept: "This browser keeps images and objects until you start over.",
  full: "This browser has no space left. Export your work before you close this page.",
  off: "This browser does not keep your work. Export it before you close this page.",
  tabs: "Other tabs of this page keep their work, and this one cannot. Export it before you close this page.",
};

/**
 * @param {import("./workspace.js").Workspace} workspace
 * @param {import("./notices.js").Notice} notice
 * @returns {WorkKeeper}
 */
export function installOpenImages(workspace, notice) {
  const element = (id) => document.getElementById(id);
  const keeper = new WorkKeeper(workspace, `edgesam-playground ${new URL(".", location.href).pathname}`);
  const thumbnails = new Thumbnails(
    workspace,
    {
      strip: element("images"),
      list: element("thumbnails"),
      template: /** @type {HTMLTemplateElement} */ (element("thumbnail-row")),
      position: element("image-position"),
      previous: /** @type {HTMLButtonElement} */ (element("previous-image")),
      next: /** @type {HTMLButtonElement} */ (element("next-image")),
    },
    close,
  );
  workspace.onOpening = (done, count) => thumbnails.showOpening(done, count);
  keeper.onState = (state) => {
    element("kept-note").textContent = NOTES[state];
    element("kept-note").dataset.state = state;
    if (state === "full") notice.show(Object.assign(new Error("The storage is full."), { code: "storage-full" }));
  };
  const restored = keeper.start();
  installImageInput(
    {
      input: /** @type {HTMLInputElement} */ (element("file")),
      openers: [element("open"), element("choose")],
      folderInput: /** @type {HTMLInputElement} */ (element("folder")),
      folderOpeners: [element("choose-folder"), element("open-folder")],
      samplers: document.querySelectorAll("[data-sample]"),
      dropMark: element("drop-mark"),
    },
    MAX_IMAGES,
    async (files) => {
      notice.hide();
      await restored; // otherwise an image of the last visit would be opened twice
      await workspace.add(files);
    },
    (error) => notice.show(error),
  );
  element("start-over").addEventListener("click", startOver);
  return keeper;

  /** @param {import("./workspace.js").WorkImage} image */
  async function close(image) {
    const count = objectCount(image);
    const text = count === 1 ? "Its object will be lost." : `Its ${count} objects will be lost.`;
    const isAgreed = image.session.isEmpty || (await ask({ title: `Close ${image.file.name}?`, text, action: "Close the image" }));
    if (isAgreed) await workspace.close(image);
  }

  async function startOver() {
    const text = "All images, objects, masks and classes are removed from this page and from this browser. Files that you exported stay.";
    if (!(await ask({ title: "Start over?", text, action: "Remove everything" }))) return;
    await keeper.startOver();
    for (const { name } of classes.all()) classes.remove(name);
    toast("Everything is removed");
  }
}
