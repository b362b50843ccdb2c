/** The page: makes the parts and connects them. */

import { DecodingChoice } from "./decoding_choice.js";
import { Client, Problem, Unreachable } from "../client/edgesam.js";
import { coco, curl, cutOut, maskPng, svg } from "./exports.js";
import { canCopyPictures, copyPicture, copyText, download } from "./clipboard.js";
import { installIntake } from "./image_input.js";
import { LatencyStrip } from "./latency.js";
import { Notice } from "./notices.js";
import { Panel } from "./panel.js";
import { Pointing } from "./pointing.js";
import { Segmenter } from "./segmenter.js";
import { Session } from "./session.js";
import { Stage } from "./stage.js";
import { recall, remember } from "./storage.js";
import { installTheme } from "./theme.js";

const KEY = "edgesam-api-key";
const ZOOM_STEP = 1.4;
const TOAST_MS = 2500;
const PROGRESS = {
  hash: "Reading",
  "look-up": "Asking",
  upload: "Uploading",
  encode: "Looking at the image",
  decoder: "Fetching the decoder",
  prepare: "Preparing the image",
};

const element = (id) => document.getElementById(id);
const upper = /** @type {HTMLCanvasElement} */ (element("upper"));

const session = new Session();
const client = new Client(undefined, {
  apiKey: recall("sessionStorage", KEY) ?? "",
  onRestore: (_, progress) => showProgress(progress),
});
const segmenter = new Segmenter(client, session);
const stage = new Stage(/** @type {HTMLCanvasElement} */ (element("lower")), upper);
const strip = new LatencyStrip(element("latency"));
const choice = new DecodingChoice(
  {
    section: element("decoding"),
    growRow: element("grow-row"),
    grow: element("grow"),
    hereRow: element("here-row"),
    here: element("here"),
    note: element("here-note"),
    compare: element("compare"),
    comparison: element("comparison"),
  },
  client,
  segmenter,
  strip,
);
const notice = new Notice(element("notice"), { retry, open: () => element("file").click(), key: askForKey }, isBack);

/** @type {{file: File, imageHash: string, width: number, height: number} | null} */
let picture = null;
let opening = new AbortController();
let tool = "include";
let isCutOut = false;
let toastTimer = 0;

new Panel(session, {
  list: element("objects"),
  candidates: element("candidates"),
  rowTemplate: /** @type {HTMLTemplateElement} */ (element("object-row")),
});
new Pointing(upper, stage, {
  tool: () => tool,
  point: (point) => session.addPoint(point),
  box: (box) => session.setBox(box),
  hover: (place) => segmenter.hover(session.selected.prompt === null ? place : null),
});
installTheme(element("theme"));
installIntake(
  {
    input: /** @type {HTMLInputElement} */ (element("file")),
    openers: [element("open"), element("choose")],
    samplers: document.querySelectorAll("[data-sample]"),
    dropMark: element("drop-mark"),
  },
  open,
  (error) => notice.show(error),
);
session.addEventListener("change", update);
segmenter.onTiming = (timing, asked) => {
  strip.add(timing, asked === client ? "service" : "browser");
  notice.hide();
};
segmenter.onGlimpse = (glimpse) => stage.draw({ glimpse: session.selected.prompt === null ? glimpse : null });
segmenter.onError = (error) => (choice.isHere ? choice.failed(error) : showError(error));
choice.onProgress = showProgress;
choice.onError = showError;
stage.addEventListener("view", () => {
  element("zoom").textContent = `${Math.round(stage.view.scale * 100)} %`;
  upper.dataset.view = JSON.stringify(stage.view);
});

/** Show a picture and make it known to the service. Clicks meanwhile wait for it. @param {File} file */
async function open(file) {
  opening.abort();
  opening = new AbortController();
  const { signal } = opening;
  notice.hide();
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch (error) {
    showError(Object.assign(new Error("undisplayable", { cause: error }), { code: "undisplayable-image" }));
    return;
  }
  if (signal.aborted) return;
  if (picture) client.forget(picture.imageHash);
  picture = { file, imageHash: "", width: bitmap.width, height: bitmap.height };
  segmenter.setPicture("");
  choice.show("", null);
  session.reset();
  setCutOut(false);
  document.body.classList.add("has-picture");
  element("picture-name").textContent = file.name;
  element("picture-size").textContent = `${bitmap.width} × ${bitmap.height}`;
  stage.show(bitmap);
  upper.focus({ preventScroll: true });
  await embed(signal);
}

async function embed(signal) {
  try {
    const onProgress = (progress) => signal.aborted || showProgress(progress);
    const { image_hash: imageHash } = await client.embed(picture.file, { signal, onProgress });
    if (signal.aborted) return;
    picture.imageHash = imageHash;
    segmenter.setPicture(imageHash);
    choice.show(imageHash, session.selected.prompt);
    await choice.open().catch((error) => choice.failed(error));
    if (signal.aborted) return;
    say(session.isEmpty ? "The image is ready. Click on something." : "The image is ready.");
  } catch (error) {
    if (!signal.aborted) showError(error);
  }
}

function retry() {
  if (picture && !picture.imageHash) embed(opening.signal);
  else segmenter.retry();
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

function showProgress({ stage: name, done }) {
  const progress = element("progress");
  progress.hidden = name === "end";
  if (progress.hidden) return;
  const isMeasured = name === "upload" || (["hash", "decoder"].includes(name) && done > 0);
  progress.classList.toggle("is-measured", isMeasured);
  element("progress-bar").style.width = `${isMeasured ? Math.round(100 * done) : 100}%`;
  element("progress-text").textContent = isMeasured ? `${PROGRESS[name]} ${Math.round(100 * done)} %` : `${PROGRESS[name]}…`;
}

/** What depends on the session, drawn and written anew. */
function update() {
  const objects = session.objects.map((object) => {
    return { ...object, mask: session.mask(object), grownBox: session.candidates(object).grownBox };
  });
  stage.draw({ objects, selectedId: session.selected.id, ...(session.selected.prompt && { glimpse: null }) });
  choice.show(picture?.imageHash ?? "", session.selected.prompt);
  const { masks, chosen } = session.candidates(session.selected);
  const all = found();
  setDisabled({
    undo: !session.canUndo,
    redo: !session.canRedo,
    clear: !session.selected.prompt,
    "cut-out": all.length === 0,
    ...Object.fromEntries(["save-cut-out", "save-mask", "save-coco", "save-svg", "copy-cut-out"].map((id) => [id, all.length === 0])),
    "copy-curl": !session.selected.prompt || !picture?.imageHash,
  });
  element("only-selected-row").hidden = session.objects.length < 2;
  document.body.classList.toggle("is-fresh", session.isEmpty);
  if (all.length === 0) setCutOut(false);
  const mask = masks[chosen];
  if (mask) {
    const which = masks.length > 1 ? ` Mask ${chosen + 1} of ${masks.length}.` : "";
    say(mask.area === 0 ? "The mask is empty." : `${session.selected.name} found, score ${mask.score.toFixed(2)}.${which}`);
  }
}

/** The masks to export. */
function found() {
  const isOnlySelected = /** @type {HTMLInputElement} */ (element("only-selected")).checked && session.objects.length > 1;
  return (isOnlySelected ? [session.selected] : session.objects)
    .map((object) => ({ name: object.name, colour: object.colour, mask: session.mask(object) }))
    .filter(({ mask }) => mask !== null && mask.area > 0);
}

async function save(make, ending) {
  const stem = picture.file.name.replace(/\.\w+$/, "") || "image";
  try {
    download(await make(), `${stem}-${ending}`);
    toast(`Saved ${stem}-${ending}`);
  } catch (error) {
    showError(error);
  }
}

async function copy(what, doIt) {
  try {
    await doIt();
    toast(`Copied ${what}`);
  } catch (error) {
    showError(error);
  }
}

function curlCommand() {
  const { prompts, options } = segmenter.requestOf(session.selected.prompt);
  return curl({
    url: client.url,
    imageHash: picture.imageHash,
    fileName: picture.file.name,
    body: { ...options, prompts },
    hasKey: client.apiKey !== "",
  });
}

function setTool(name) {
  tool = name;
  upper.dataset.tool = name;
  for (const id of ["include", "exclude", "move"]) element(id).setAttribute("aria-pressed", String(id === name));
  if (name !== "include") segmenter.hover(null);
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

function toast(text) {
  element("toast").textContent = text;
  element("toast").classList.add("is-shown");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => element("toast").classList.remove("is-shown"), TOAST_MS);
}

/** For screen readers. */
function say(text) {
  element("status").textContent = text;
}

function setDisabled(states) {
  for (const [id, isDisabled] of Object.entries(states)) {
    /** @type {HTMLButtonElement} */ (element(id)).disabled = isDisabled;
  }
}

const ACTIONS = {
  include: () => setTool("include"),
  exclude: () => setTool("exclude"),
  move: () => setTool("move"),
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
  "save-cut-out": () => save(() => cutOut(stage.picture, found()), "cutout.png"),
  "save-mask": () => save(() => maskPng(found()), "mask.png"),
  "save-coco": () => save(() => coco({ ...picture, name: picture.file.name }, found()), "coco.json"),
  "save-svg": () => save(() => svg({ ...picture, name: picture.file.name }, found()), "outline.svg"),
  "copy-cut-out": () => copy("the cut-out", () => copyPicture(cutOut(stage.picture, found()))),
  "copy-curl": () => copy("the curl command", () => copyText(curlCommand())),
};
for (const [id, act] of Object.entries(ACTIONS)) element(id).addEventListener("click", act);
element("copy-cut-out").hidden = !canCopyPictures;
element("only-selected").addEventListener("change", update);

const SHORTCUTS = {
  a: "include",
  s: "exclude",
  h: "move",
  n: "add-object",
  p: "cut-out",
  0: "zoom",
  "+": "zoom-in",
  "=": "zoom-in",
  "-": "zoom-out",
  "?": "help",
};
addEventListener("keydown", (event) => {
  if (event.target instanceof HTMLInputElement || document.querySelector("dialog[open]")) return;
  const key = event.key.toLowerCase();
  const isCommand = event.ctrlKey || event.metaKey;
  let action;
  if (isCommand) action = { z: event.shiftKey ? "redo" : "undo", y: "redo", s: "save-cut-out", o: "choose" }[key];
  else if (!event.altKey) action = SHORTCUTS[key] ?? (picture && { delete: "clear", backspace: "clear" }[key]);
  if (!action || (!picture && !["help", "choose"].includes(action))) return;
  event.preventDefault();
  element(action).click();
});

upper.addEventListener("keydown", (event) => {
  const { masks, chosen } = session.candidates(session.selected);
  // Shift+Tab and Escape lead out, so that the keyboard is not caught here.
  if (event.key === "Tab" && !event.shiftKey && masks.length > 1) {
    event.preventDefault();
    session.choose(chosen + 1);
  } else if (event.key === "Escape") {
    upper.blur();
  }
});

element("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  client.apiKey = /** @type {HTMLInputElement} */ (element("key")).value.trim();
  remember("sessionStorage", KEY, client.apiKey);
  /** @type {HTMLDialogElement} */ (element("key-dialog")).close();
  notice.hide();
  retry();
  describeModel();
});

/** What the model is, and a word of warning where its masks mean nothing. */
async function describeModel() {
  try {
    const [model] = await client.models();
    element("model").textContent = model.name;
    element("model").title = `${model.architecture}. Licence: ${model.licence}`;
    for (const part of ["name", "architecture", "encoder", "licence"]) {
      element("about-model").querySelector(`[data-part=${part}]`).textContent = model[part];
    }
    element("about-model").hidden = false;
    element("untrained").hidden = model.trained;
    choice.offer(model);
  } catch (error) {
    if (error.code === "unauthorized") showError(error);
    // else the first picture will tell what is wrong
  }
}

setTool("include");
update();
describeModel();
document.body.classList.add("is-ready");
