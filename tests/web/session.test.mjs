/** The page's work on an image without a page; started by test_session_modules.py with masks of pycocotools. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { Problem, rasterOfRle } from "../../service/web/client/edgesam.js";
import { currentSession } from "../../service/web/playground/current_session.js";
import { isInside, maskOfTransitions, transitionsOf, unionOf } from "../../service/web/playground/run_lengths.js";
import { Segmenter } from "../../service/web/playground/segmenter.js";
import { Session } from "../../service/web/playground/session.js";

const { masks, unions } = JSON.parse(await readFile(process.env.EDGESAM_TEST_CASES, "utf8"));
const SIZE = [6, 8];

/** A mask of some columns of the image. */
function columns(from, to) {
  return maskOfTransitions([from * SIZE[0], to * SIZE[0]], SIZE);
}

/** A mask as the service answers it. */
function answered(from, to) {
  return { ...columns(from, to), score: 0.75, mask_id: `${from}`.padStart(32, "0") };
}

function sessionWithAnswers(points) {
  const session = new Session();
  for (const [x, y, label] of points) {
    session.addPoint({ x, y, label });
    session.answer(session.selected.prompt, [answered(0, Math.floor(x))]);
  }
  return session;
}

/** A backend that keeps its requests until they are answered. */
class Backend {
  requests = [];

  segment(imageHash, prompts, options) {
    return new Promise((resolve, reject) => this.requests.push({ prompts, options, resolve, reject }));
  }
}

function segmenting(session) {
  const backend = new Backend();
  const segmenter = new Segmenter(backend, session);
  segmenter.setImage("f".repeat(64));
  return { backend, segmenter };
}

test("run lengths become masks with area and box", () => {
  for (const { rle, area, box } of masks) {
    const mask = maskOfTransitions(transitionsOf(rle), rle.size);
    assert.deepEqual(mask.rle, rle);
    assert.deepEqual([mask.area, mask.box], [area, box]);
  }
});

test("the union of masks has the pixels of all", () => {
  for (const { parts, rle } of unions) assert.deepEqual(unionOf(parts.map((part) => ({ rle: part }))).rle, rle);
});

test("a position is inside where its pixel is", () => {
  for (const { rle } of masks) {
    const { width, height, data } = rasterOfRle(rle);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) assert.equal(isInside({ rle }, { x: x + 0.5, y: y + 0.5 }), data[y * width + x] === 1);
    }
    assert.equal(isInside({ rle }, { x: width, y: height }), data.at(-1) === 1); // points may lie on the border of the image
  }
});

test("a moved point is asked without the mask of the earlier points, and undo brings that mask back", () => {
  const session = sessionWithAnswers([[3, 3, 1], [5, 3, 0]]);
  const before = session.mask(session.selected);

  session.movePoint(0, { x: 4.5, y: 2 });

  const { points, refined } = session.selected.prompt;
  assert.deepEqual(points, [{ x: 4.5, y: 2, label: 1 }, { x: 5, y: 3, label: 0 }]);
  assert.equal(refined, null);
  assert.equal(session.isAnswered(session.selected.prompt), false);
  assert.equal(session.mask(session.selected), before); // until the answer comes
  session.undo();
  assert.equal(session.isAnswered(session.selected.prompt), true);
});

test("points change their labels and are removed; the last one takes the prompt with it", () => {
  const session = sessionWithAnswers([[3, 3, 1], [5, 3, 0]]);

  session.setPointLabel(1, 1);
  assert.deepEqual(session.selected.prompt.points.map(({ label }) => label), [1, 1]);
  session.removePoint(0);
  assert.deepEqual(session.selected.prompt.points, [{ x: 5, y: 3, label: 1 }]);
  session.removePoint(7); // there is none
  session.removePoint(0);
  assert.equal(session.selected.prompt, null);
  for (let i = 0; i < 3; i++) session.undo();
  assert.deepEqual(session.selected.prompt.points.map(({ label }) => label), [1, 0]);
});

test("a removed box leaves the points", () => {
  const session = sessionWithAnswers([[3, 3, 1]]);
  session.setBox([1, 1, 5, 5]);
  session.removeBox();
  assert.deepEqual([session.selected.prompt.box, session.selected.prompt.points.length], [null, 1]);
});

test("given masks need no request, survive another model, and take the place of an empty object in one undo step", () => {
  const session = new Session();
  const { backend } = segmenting(session);

  session.addMasks([columns(0, 2), columns(2, 4)], { names: ["left"] });
  session.dropMasks();

  assert.deepEqual(session.objects.map(({ name }) => name), ["left", "Object 2"]);
  assert.deepEqual(session.objects.map((object) => session.mask(object).area), [12, 12]);
  assert.equal(session.selected.name, "left");
  assert.notEqual(session.objects[0].colour, session.objects[1].colour);
  assert.equal(backend.requests.length, 0);
  session.undo();
  assert.equal(session.canUndo, false);
  assert.equal(session.isEmpty, true);
});

test("added masks are numbered from the first empty object on", () => {
  const session = new Session();
  session.addMasks([columns(0, 2), columns(2, 4), columns(4, 6)]);
  session.addObject();
  session.addMasks([columns(6, 8)]);
  assert.deepEqual(session.objects.map(({ name }) => name), ["Object 1", "Object 2", "Object 3", "Object 4"]);
  assert.deepEqual(session.objects.map(({ id }) => id), [1, 2, 3, 4]);
  assert.equal(session.selected.name, "Object 4");
});

test("the answer of an image that was left goes into its session, and waiting for it is bounded", async () => {
  const { session: shown, use } = currentSession();
  const [first, second] = [new Session(), new Session()];
  use(first);
  const { backend, segmenter } = segmenting(shown);
  const timings = [];
  segmenter.onTiming = (timing) => timings.push(timing);
  shown.addPoint({ x: 1, y: 1, label: 1 });

  segmenter.leave(first);
  use(second);
  await segmenter.settled(1);
  assert.equal(first.mask(first.selected), null);
  backend.requests[0].resolve({ results: [{ masks: [answered(0, 3)], granularity_box: null }], timing: {} });
  await segmenter.settled(60_000);

  assert.equal(first.mask(first.selected).area, 18);
  assert.equal(second.mask(second.selected), null);
  assert.deepEqual(timings, []);
});

test("masks can be added without losing the selection or a named object", () => {
  const session = new Session();
  session.rename(1, "cup");
  session.addMasks([columns(0, 2)], { select: false });
  assert.deepEqual([session.selected.name, session.objects.length], ["cup", 2]);
});

test("a point refines a given mask by its run lengths, and an answer by its id", () => {
  const session = new Session();
  const { backend, segmenter } = segmenting(session);
  const given = columns(0, 4);
  session.addMasks([given]);

  session.addPoint({ x: 6, y: 3, label: 1 });

  assert.deepEqual(backend.requests[0].prompts, [{ points: [{ x: 6, y: 3, label: 1 }], mask: given.rle }]);
  session.answer(session.selected.prompt, [answered(0, 6)]);
  session.addPoint({ x: 7, y: 3, label: 0 });
  assert.equal(segmenter.requestOf(session.selected.prompt).prompts[0].mask_id, answered(0, 6).mask_id);
  session.removePoint(1);
  assert.deepEqual(segmenter.requestOf(session.selected.prompt).prompts[0].mask, given.rle);
  session.removePoint(0);
  assert.equal(session.mask(session.selected), given);
});

test("a painted mask keeps the points that agree with it, and Refine sends the mask alone", () => {
  const session = sessionWithAnswers([[3, 3, 1], [6, 3, 1], [7, 3, 0]]);
  const { backend } = segmenting(session);
  const painted = columns(2, 5);

  session.paint(painted);

  assert.deepEqual(session.selected.prompt.points, [{ x: 3, y: 3, label: 1 }, { x: 7, y: 3, label: 0 }]);
  assert.equal(backend.requests.length, 0);
  session.refine();
  assert.deepEqual(backend.requests[0].prompts, [{ mask: painted.rle }]);
  assert.equal(session.mask(session.selected), painted); // until the answer comes
  session.undo();
  assert.equal(session.selected.prompt.given, painted);
  session.undo();
  assert.equal(session.mask(session.selected).score, 0.75);
});

test("where the backend takes no mask, the box of a refined mask stands for it", async () => {
  const session = new Session();
  const { backend, segmenter } = segmenting(session);
  session.addMasks([columns(2, 5)]);

  session.refine();
  const [request] = backend.requests;
  assert.deepEqual(segmenter.requestOf(session.selected.prompt, session, { isForAll: true }).prompts, [{ box: [2, 0, 5, 6] }]);
  request.reject(new Problem({ status: 404, code: "mask-not-found", title: "", detail: "" }));
  await new Promise(setImmediate);

  assert.deepEqual(backend.requests[1].prompts, [{ box: [2, 0, 5, 6] }]);
});

test("a mask of which everything is erased is cleared", () => {
  const session = sessionWithAnswers([[3, 3, 1]]);
  const { backend } = segmenting(session);
  session.paint(maskOfTransitions([], SIZE));
  assert.equal(session.selected.prompt, null);
  session.addPoint({ x: 2, y: 2, label: 1 });
  assert.deepEqual(backend.requests.map(({ prompts }) => prompts), [[{ points: [{ x: 2, y: 2, label: 1 }] }]]);
  session.undo();
  session.undo();
  assert.equal(session.mask(session.selected).score, 0.75);
});

test("merged objects are one object with all pixels", () => {
  const session = new Session();
  session.addMasks([columns(0, 2), columns(3, 5), columns(6, 8)], { names: ["a", "b", "c"] });
  const [a, , c] = session.objects;

  session.merge([c.id, a.id]);

  assert.deepEqual(session.objects.map(({ name }) => name), ["a", "b"]);
  assert.equal(session.selected.name, "a");
  assert.deepEqual([session.mask(session.selected).area, session.mask(session.selected).box], [24, [0, 0, 8, 6]]);
  session.undo();
  assert.equal(session.objects.length, 3);
  session.merge([a.id]);
  assert.equal(session.objects.length, 3);
});

test("objects are removed together, and one empty object remains", () => {
  const session = new Session();
  session.addMasks([columns(0, 2), columns(3, 5), columns(6, 8)]);
  const ids = session.objects.map(({ id }) => id);
  session.removeObjects(ids.slice(0, 2));
  assert.deepEqual(session.objects.map(({ id }) => id), [ids[2]]);
  session.undo();
  session.removeObjects(ids);
  assert.deepEqual([session.objects.length, session.isEmpty], [1, true]);
});

test("classes are undone, visibility is not", () => {
  const session = new Session();
  session.addMasks([columns(0, 2), columns(3, 5)]);
  const ids = session.objects.map(({ id }) => id);

  session.setClass(ids, "leaf");
  session.setVisible([ids[0]], false);
  assert.deepEqual(session.objects.map(({ className, isVisible }) => [className, isVisible]), [["leaf", false], ["leaf", true]]);
  session.undo();
  assert.deepEqual(session.objects.map(({ className, isVisible }) => [className, isVisible]), [["", false], ["", true]]);
});

test("a dump has all work and survives storage; the answers need no request", () => {
  const session = sessionWithAnswers([[3, 3, 1], [5, 3, 0]]);
  session.addMasks([columns(6, 8)], { names: ["given"] });
  session.setClass([session.selected.id], "leaf");
  session.select(1);
  const dump = structuredClone(session.dump());
  const masksBefore = session.objects.map((object) => session.mask(object));
  const restored = new Session();
  const { backend, segmenter } = segmenting(restored);

  restored.restore(dump);

  assert.deepEqual(restored.objects.map((object) => restored.mask(object)), masksBefore);
  assert.deepEqual(restored.objects.map(({ name, className }) => [name, className]), [["Object 1", ""], ["given", "leaf"]]);
  assert.equal(restored.selected.id, 1);
  assert.deepEqual([backend.requests.length, restored.canUndo], [0, false]);
  restored.addPoint({ x: 1, y: 1, label: 1 });
  assert.equal(segmenter.requestOf(restored.selected.prompt).prompts[0].mask_id, masksBefore[0].mask_id);
  restored.addObject();
  assert.ok(restored.objects.every(({ id }, i) => restored.objects.findIndex((other) => other.id === id) === i));
  assert.throws(() => restored.restore({ ...dump, version: 99 }), RangeError);
});
