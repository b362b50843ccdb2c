/** Entry point of the page: creates the parts and connects them. */

import { DecodingChoice } from "./decoding_choice.js";
import { Client, Problem, Unreachable } from "../client/edgesam.js";
import { ClassListPanel } from "./class_list.js";
import { classes, shownColour } from "./classes.js";
import { CodePanel } from "./code_panel.js";
import { installDisplayControls } from "./display_controls.js";
import { ExportMenu } from "./export_menu.js";
import { FindAll } from "./find_all.js";
import { currentSession } from "./current_session.js";
import { LatencyStrip } from "./latency.js";
import { announce } from "./messages.js";
import { ModelChoice } from "./model_choice.js";
import { Notice } from "./notices.js";
import { installOpenImages } from "./open_images.js";
import { Panel } from "./panel.js";
import { showProgress } from "./progress.js";
import { Segmenter } from "./segmenter.js";
import { installShortcuts } from "./shortcuts.js";
import { Stage } from "./stage.js";
import { Regions } from "./region.js";
import { recall, remember } from "./storage.js";
import { installTheme } from "./theme.js";
import { Toolbar } from "./toolbar.js";
import { installTools } from "./tools.js";
import { Workspace } from "./workspace.js";

const KEY = "edgesam-api-key";
const ZOOM_STEP = 1.4;

const element = (id) => document.getElementById(id);
const upper = /** @type {HTMLCanvasElement} */ (element("upper"));

const { session, use } = currentSession();
const client = new Client(undefined, {
  apiKey: recall("sessionStorage", KEY) ?? "",
  onRestore: (_, progress) => showProgress(progress),
});
const segmenter = new Segmenter(client, session);
const stage = new Stage(/** @type {HTMLCanvasElement} */ (element("lower")), upper);
const workspace = new Workspace({ client, stage, segmenter, use });
const strip = new LatencyStrip(element("latency"));
const choice = new DecodingChoice(
  {
    section: element("decoding"),
    wholeObjectRow: element("whole-object-row"),
    wholeObject: element("whole-object"),
    inBrowserRow: element("decode-in-browser-row"),
    inBrowser: element("decode-in-browser"),
    note: element("decode-in-browser-note"),
    compare: element("compare"),
    comparison: element("comparison"),
  },
  client,
  segmenter,
  strip,
);
const models = new ModelChoice(
  {
    places: [element("welcome-model"), element("panel-model")],
    template: /** @type {HTMLTemplateElement} */ (element("model-description")),
    strip: element("model"),
    help: element("about-model"),
    untrained: element("untrained"),
  },
  client,
);
const notice = new Notice(element("notice"), { retry, open: () => element("file").click(), key: askForKey }, isBack);

let isCutOut = false;

const panel = new Panel(session, {
  list: element("objects"),
  count: element("object-count"),
  eye: /** @type {HTMLButtonElement} */ (element("show-all")),
  candidates: element("candidates"),
  rowTemplate: /** @type {HTMLTemplateElement} */ (element("object-row")),
});
const findAll = new FindAll(
  { client, session, stage, workspace },
  {
    start: element("find-all"),
    busy: element("finding"),
    text: element("finding-text"),
    bar: element("finding-bar"),
    cancel: element("finding-cancel"),
    results: element("found"),
    count: element("found-count"),
    takeAll: element("take-all"),
    done: element("found-done"),
    hint: element("hint"),
    canvas: upper,
  },
);
findAll.onError = showError;
installTools(upper, session, stage, segmenter, findAll, { onPaint: () => setCutOut(false) });
const classList = new ClassListPanel(
  {
    section: element("classes"),
    list: element("class-list"),
    suggestions: element("class-names"),
    rowTemplate: /** @type {HTMLTemplateElement} */ (element("class-row")),
  },
  () => workspace.images().map((each) => each.session),
);
const exportMenu = new ExportMenu({ session, workspace, stage, client, segmenter, onError: showError });
const codePanel = new CodePanel(/** @type {HTMLDetailsElement} */ (element("code")), codeRequest, showError);
installDisplayControls(
  { opacity: /** @type {HTMLInputElement} */ (element("opacity")), outline: /** @type {HTMLInputElement} */ (element("outline")) },
  stage,
);
new Regions(/** @type {HTMLButtonElement} */ (element("sharper")), {
  ...{ client, stage, segmenter, workspace },
  ...{ onProgress: showProgress, onError: showError },
});
installTheme(element("theme"));
new Toolbar({ bar: element("toolbar"), more: element("more"), menu: element("more-menu") });
session.addEventListener("change", update);
classes.addEventListener("change", () => {
  panel.update();
  update();
});
segmenter.onTiming = (timing, backend) => {
  strip.add(timing, backend === client ? "service" : "browser");
  notice.hide();
};
segmenter.onPreview = (preview) => stage.draw({ preview: session.selected.prompt === null ? preview : null });
segmenter.onError = (error) => (choice.isInBrowser ? choice.handleError(error) : showError(error));
workspace.onProgress = showProgress;
workspace.onError = showError;
workspace.addEventListener("show", showImage);
workspace.addEventListener("embedded", prepareClicks);
const keeper = installOpenImages(workspace, notice);
exportMenu.onExported = (images) => keeper.exported(images);
models.onChoice = useModel;
choice.onProgress = showProgress;
choice.onError = showError;
stage.addEventListener("view", () => {
  element("zoom").textContent = `${Math.round(stage.view.scale * 100)} %`;
  upper.dataset.view = JSON.stringify(stage.view);
});

/** Show what there is to say about the image in view, or the first screen if there is none. */
function showImage() {
  const image = workspace.current;
  notice.hide();
  setCutOut(false);
  choice.show("", null);
  document.body.classList.toggle("has-image", image !== null);
  element("image-name").textContent = image?.file.name ?? "";
  element("image-size").textContent = image ? `${image.width} × ${image.height}` : "";
  announce(image ? `${image.file.name} is shown.` : "No image is open.");
  if (image) upper.focus({ preventScroll: true });
}

/** The service has the image in view: prepare it in this browser too, if that decodes the clicks. */
async function prepareClicks() {
  const image = workspace.current;
  element("image-name").textContent = image.file.name; // the service may have got a copy
  update();
  await choice.open().catch((error) => choice.handleError(error));
  if (image !== workspace.current) return;
  announce(session.isEmpty ? "The image is ready. Click on something." : "The image is ready.");
}

function retry() {
  if (!workspace.retry() && !findAll.retry()) segmenter.retry();
}

async function isBack() {
  try {
    await client.models();
    return true;
  } catch (error) {
    return !(error instanceof Unreachable) && !(error instanceof Problem && error.status >= 500);
  }
}

function showError(error) {
  notice.show(error);
}

/** Update everything that depends on the session. */
function update() {
  const objects = session.objects.map((object) => {
    const { granularityBox } = session.candidates(object);
    return { ...object, colour: shownColour(object), mask: session.mask(object), granularityBox };
  });
  stage.draw({ objects, selectedId: session.selected.id, ...(session.selected.prompt && { preview: null }) });
  choice.show(workspace.current?.imageHash ?? "", session.selected.prompt);
  const { masks, chosen } = session.candidates(session.selected);
  const isNothing = exportMenu.objects.length === 0;
  setDisabled({
    undo: !session.canUndo,
    redo: !session.canRedo,
    clear: !session.selected.prompt,
    "cut-out": isNothing,
  });
  classList.update();
  codePanel.update();
  document.body.classList.toggle("is-fresh", session.isEmpty);
  if (isNothing) setCutOut(false);
  const mask = masks[chosen];
  if (mask && !session.selected.prompt.given) {
    const which = masks.length > 1 ? ` Mask ${chosen + 1} of ${masks.length}.` : "";
    announce(mask.area === 0 ? "The mask is empty." : `${session.selected.name} found, score ${mask.score.toFixed(2)}.${which}`);
  }
}

/** The request of the selected object, for programs; null if it has none. @returns {import("./code_snippets.js").CodeRequest | null} */
function codeRequest() {
  const image = workspace.current;
  const { prompt } = session.selected;
  if (!prompt || !image?.imageHash) return null;
  const { prompts, options } = segmenter.requestOf(prompt);
  return {
    url: client.url,
    imageId: segmenter.imageIdOf(prompt),
    fileName: image.file.name,
    body: { ...options, prompts, ...(client.model && { model: client.model }) },
    hasKey: client.apiKey !== "",
  };
}

function setCutOut(isOn) {
  isCutOut = isOn;
  element("cut-out").setAttribute("aria-pressed", String(isOn));
  stage.draw({ isCutOut });
}

function askForKey() {
  const dialog = /** @type {HTMLDialogElement} */ (element("key-dialog"));
  /** @type {HTMLInputElement} */ (element("key")).value = client.apiKey;
  dialog.showModal();
}

function setDisabled(states) {
  for (const [id, isDisabled] of Object.entries(states)) {
    /** @type {HTMLButtonElement} */ (element(id)).disabled = isDisabled;
  }
}

const ACTIONS = {
  undo: () => session.undo(),
  redo: () => session.redo(),
  clear: () => session.clear(),
  "cut-out": () => setCutOut(!isCutOut),
  "zoom-in": () => stage.zoom(ZOOM_STEP),
  "zoom-out": () => stage.zoom(1 / ZOOM_STEP),
  zoom: () => stage.fit(),
  "add-object": () => session.addObject(),
  "enter-key": askForKey,
  help: () => /** @type {HTMLDialogElement} */ (element("help-dialog")).showModal(),
};
for (const [id, act] of Object.entries(ACTIONS)) element(id).addEventListener("click", act);

installShortcuts(() => workspace.current !== null);

element("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  client.apiKey = /** @type {HTMLInputElement} */ (element("key")).value.trim();
  remember("sessionStorage", KEY, client.apiKey);
  /** @type {HTMLDialogElement} */ (element("key-dialog")).close();
  notice.hide();
  retry();
  describeModels();
});

/** Show the models in words. */
async function describeModels() {
  try {
    await models.load();
  } catch (error) {
    if (error.code === "unauthorized") showError(error);
    // any other problem is shown when the user opens an image
  }
}

/** Offer what a model can do. If another one answered before, this one embeds the image and answers all prompts anew. */
function useModel(model, isOther) {
  if (isOther) {
    choice.show("", session.selected.prompt);
    findAll.reset();
    notice.hide();
  }
  choice.offer(model);
  codePanel.showModel(model, client.url);
  workspace.setModel(model, isOther);
}

update();
describeModels();
document.body.classList.add("is-ready");
