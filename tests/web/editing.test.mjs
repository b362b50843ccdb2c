/** Handles and the brush without a page; started by test_session_modules.py. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { rasterOfRle } from "../../service/web/client/masks.js";
import { BrushStroke } from "../../service/web/playground/brush_stroke.js";
import { boxHandles, dragged, handleAt, handlesOf, isClickable } from "../../service/web/playground/handles.js";
import { joined, maskOfTransitions, without } from "../../service/web/playground/run_lengths.js";

const IMAGE = { width: 40, height: 30 };
const VIEW = { scale: 10, x: 100, y: 50 };
const POINT = { x: 10, y: 10, label: 1 };
const PROMPT = { points: [POINT, { x: 12, y: 10, label: 0 }], box: [8, 5, 30, 25] };
const ALL = { hasPoints: true, hasInside: true };

/** Pixels whose middles lie near the line through the positions, by the distance to each of its parts. */
function covered(positions, radius, { width, height }) {
  const parts = positions.map((to, i) => [positions[Math.max(0, i - 1)], to]);
  const isCovered = (x, y) =>
    parts.some(([a, b]) => {
      const length = (b.x - a.x) ** 2 + (b.y - a.y) ** 2;
      const along = length ? Math.min(1, Math.max(0, ((x - a.x) * (b.x - a.x) + (y - a.y) * (b.y - a.y)) / length)) : 0;
      return Math.hypot(a.x + along * (b.x - a.x) - x, a.y + along * (b.y - a.y) - y) <= radius;
    });
  return Uint8Array.from({ length: width * height }, (_, i) => Number(isCovered((i % width) + 0.5, Math.floor(i / width) + 0.5)));
}

function stroked(positions, radius, image) {
  const stroke = new BrushStroke(image, radius);
  for (const position of positions) stroke.add(position);
  return stroke.transitions();
}

function rasterOf(transitions, { width, height }) {
  return rasterOfRle(maskOfTransitions(transitions, [height, width]).rle).data;
}

const STROKES = [
  { radius: 1, positions: [{ x: 3, y: 3 }] },
  { radius: 4.5, positions: [{ x: 20.2, y: 14.9 }] },
  { radius: 3, positions: [{ x: 5, y: 5 }, { x: 30.3, y: 22.1 }, { x: 30.3, y: 4 }, { x: 6.6, y: 4 }] },
  { radius: 5, positions: [{ x: -3, y: 12 }, { x: 44, y: 31 }, { x: 60, y: 80 }] }, // beside the image, too
  { radius: 2.5, positions: Array.from({ length: 60 }, (_, i) => ({ x: 20 + 15 * Math.cos(i / 3), y: 15 + i / 5 * Math.sin(i / 3) })) },
];

test("a stroke covers the pixels near its line", () => {
  for (const { radius, positions } of STROKES) {
    assert.deepEqual(rasterOf(stroked(positions, radius, IMAGE), IMAGE), covered(positions, radius, IMAGE));
  }
});

test("brush and eraser add and take away the pixels of a stroke", () => {
  const mask = stroked(STROKES[2].positions, 3, IMAGE);
  const before = rasterOf(mask, IMAGE);
  for (const { radius, positions } of STROKES) {
    const stroke = stroked(positions, radius, IMAGE);
    const pixels = rasterOf(stroke, IMAGE);
    assert.deepEqual(rasterOf(joined(mask, stroke), IMAGE), before.map((value, i) => value | pixels[i]));
    assert.deepEqual(rasterOf(without(mask, stroke), IMAGE), before.map((value, i) => value & ~pixels[i] & 1));
  }
  assert.deepEqual(without(mask, [0, IMAGE.width * IMAGE.height]), []);
  assert.deepEqual(without(mask, []), mask);
});

test("a stroke across 52 megapixels keeps runs, no pixels", () => {
  const image = { width: 8800, height: 5900 };
  const transitions = stroked([{ x: 400, y: 400 }, { x: 8400, y: 5500 }], 200, image);
  const mask = maskOfTransitions(transitions, [image.height, image.width]);
  const area = 400 * Math.hypot(8000, 5100) + Math.PI * 200 ** 2;
  assert.ok(transitions.length <= 2 * image.width);
  assert.ok(Math.abs(mask.area / area - 1) < 0.0001, `${mask.area}`);
});

test("points are taken before handles, the nearest one first, within reach of the pointer", () => {
  const at = (x, y, pointerType = "mouse") => handleAt(PROMPT, VIEW, { x, y }, { pointerType, ...ALL });
  assert.deepEqual(at(200, 150), { kind: "point", index: 0 });
  assert.deepEqual(at(211, 150), { kind: "point", index: 1 });
  assert.deepEqual(at(200, 162), { kind: "point", index: 0 }); // 24 pixels wide for a mouse
  assert.deepEqual(at(200, 163), { kind: "box" });
  assert.deepEqual(at(200, 172, "touch"), { kind: "point", index: 0 }); // 44 for a finger
  assert.deepEqual(at(180, 100), { kind: "edge", edges: [-1, -1] });
  assert.deepEqual(at(290, 310), { kind: "edge", edges: [0, 1] });
  assert.equal(at(600, 100), null);
  assert.equal(handleAt(PROMPT, VIEW, { x: 200, y: 150 }, { pointerType: "mouse", hasPoints: false, hasInside: false }), null);
  assert.equal(handleAt(null, VIEW, { x: 200, y: 150 }, { pointerType: "mouse", ...ALL }), null);
});

test("a click near a handle of the box adds a point unless it is on the handle", () => {
  const corner = { kind: "edge", edges: [-1, -1] };
  assert.equal(isClickable(PROMPT, corner, VIEW, { x: 183, y: 103 }, "mouse"), true);
  assert.equal(isClickable(PROMPT, corner, VIEW, { x: 188, y: 108 }, "mouse"), false);
  assert.equal(isClickable(PROMPT, { kind: "box" }, VIEW, { x: 250, y: 200 }, "mouse"), false);
});

test("a small box has handles at its corners only", () => {
  const edges = boxHandles([1, 1, 4, 30], VIEW).map((handle) => handle.edges.join());
  assert.deepEqual(edges, ["-1,-1", "1,-1", "1,1", "-1,1", "1,0", "-1,0"]);
});

test("drags move points and boxes within the image", () => {
  const point = (by) => dragged(PROMPT, { kind: "point", index: 0 }, by, IMAGE).points[0];
  assert.deepEqual(point({ x: 1.04, y: -2 }), { x: 11, y: 8, label: 1 });
  assert.deepEqual(point({ x: 99, y: -99 }), { x: 40, y: 0, label: 1 });
  const box = (handle, by) => dragged(PROMPT, handle, by, IMAGE).box;
  assert.deepEqual(box({ kind: "box" }, { x: 2, y: 1 }), [10, 6, 32, 26]);
  assert.deepEqual(box({ kind: "box" }, { x: 99, y: -99 }), [18, 0, 40, 20]);
  assert.deepEqual(box({ kind: "edge", edges: [1, 1] }, { x: 3, y: 99 }), [8, 5, 33, 30]);
  assert.deepEqual(box({ kind: "edge", edges: [-1, 0] }, { x: 25, y: 3 }), [30, 5, 33, 25]); // over the other side
  assert.deepEqual(box({ kind: "edge", edges: [0, 1] }, { x: 0, y: -20 }), [8, 5, 30, 6]); // never without height
});

test("keys reach all points, the box and its corners", () => {
  assert.deepEqual(handlesOf(PROMPT).map(({ kind }) => kind), ["point", "point", "box", "edge", "edge", "edge", "edge"]);
  assert.deepEqual(handlesOf(null), []);
});
