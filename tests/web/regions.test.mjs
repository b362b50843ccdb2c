/** Regions of large images without a page; started by test_session_modules.py. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { duration, holds, regionInView } from "../../service/web/playground/region.js";
import { Segmenter } from "../../service/web/playground/segmenter.js";
import { Session } from "../../service/web/playground/session.js";

const IMAGE = { width: 4000, height: 3000 };

test("the part in view is offered when it is small beside the image", () => {
  assert.deepEqual(regionInView({ x: 1000.4, y: 900.2 }, { x: 2000.4, y: 1600.2 }, IMAGE), [1000, 900, 2000, 1600]);
  assert.equal(regionInView({ x: 0, y: 0 }, { x: 1400, y: 900 }, IMAGE), null); // more than a third
  assert.equal(regionInView({ x: 0, y: 0 }, { x: 200, y: 100 }, { width: 1000, height: 800 }), null); // the model sees it all
  assert.equal(regionInView({ x: -500, y: 0 }, { x: -20, y: 100 }, IMAGE), null); // beside the image
});

test("a region has surroundings and lies in the image", () => {
  assert.deepEqual(regionInView({ x: 3960, y: 2990 }, { x: 4100, y: 3100 }, IMAGE), [3744, 2744, 4000, 3000]);
  assert.deepEqual(regionInView({ x: -90, y: 10 }, { x: 50, y: 60 }, IMAGE), [0, 0, 256, 256]);
  assert.deepEqual(regionInView({ x: 10, y: -90 }, { x: 400, y: 200 }, { width: 4000, height: 120 }), [10, 0, 400, 120]);
});

test("a region answers prompts that lie in it with the mask that they change", () => {
  const box = [100, 100, 200, 200];
  const prompt = { points: [{ x: 100, y: 200, label: 1 }], box: null, given: null, refined: null };

  assert.equal(holds(box, prompt), true);
  assert.equal(holds(box, { ...prompt, points: [...prompt.points, { x: 99.9, y: 150, label: 0 }] }), false);
  assert.equal(holds(box, { ...prompt, box: [90, 120, 150, 150] }), false);
  assert.equal(holds(box, { ...prompt, refined: { box: [150, 150, 201, 160] } }), false);
  assert.equal(holds(box, { ...prompt, given: { box: [150, 150, 200, 160] } }), true);
  assert.equal(holds(box, { points: [], box: null, given: null, refined: null }), false);
});

test("times are written in words", () => {
  assert.deepEqual([undefined, 300, 1499, 2600].map(duration), ["some seconds", "about 1 s", "about 1 s", "about 3 s"]);
});

test("the service answers a prompt on a region, also where this browser decodes the image", async () => {
  const asked = [];
  const answering = (name) => ({
    segment: async (imageId) => {
      asked.push([name, imageId]);
      return { results: [{ masks: [{ rle: { size: [6, 8], counts: "0" }, area: 1, box: [0, 0, 1, 1], score: 1 }] }], timing: { stages: {} } };
    },
  });
  const session = new Session();
  const segmenter = new Segmenter(answering("service"), session);
  segmenter.setBackend(answering("browser"));
  segmenter.imageOf = ({ points }, imageHash) => (points[0].x > 3 ? `${imageHash}~region=3,0,8,6` : imageHash);
  segmenter.setImage("f");
  const timed = new Promise((resolve) => (segmenter.onTiming = resolve));

  session.addPoint({ x: 5, y: 2, label: 1 });
  await timed;
  assert.equal(segmenter.answeredBy(session.selected.prompt), "f~region=3,0,8,6");
  session.addObject();
  session.addPoint({ x: 1, y: 2, label: 1 });
  await new Promise((resolve) => (segmenter.onTiming = resolve));

  assert.deepEqual(asked, [["service", "f~region=3,0,8,6"], ["browser", "f"]]);
});
