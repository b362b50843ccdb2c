/** Modules of the export menu in Node; started by test_export_modules.py, which reads what they write with other libraries. */

import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { test } from "node:test";

import { rings } from "../../service/web/client/outlines.js";
import { candidateNames } from "../../service/web/playground/candidates.js";
import { SNIPPETS } from "../../service/web/playground/code_snippets.js";
import { ClassList } from "../../service/web/playground/classes.js";
import { palettePng } from "../../service/web/playground/png.js";
import { simplified, smoothPath } from "../../service/web/playground/smooth_outlines.js";

const { outlines, candidates, indexed, requests } = JSON.parse(await readFile(process.env.EDGESAM_TEST_CASES, "utf8"));

test("outlines are simplified and drawn with curves", async () => {
  const found = outlines.map(({ width, height, data, tolerance }) => {
    const exact = rings({ width, height, data: Uint8Array.from(data) });
    const points = simplified(exact, tolerance);
    const simple = points.rings().map((ring) => ring.map((point) => [points.x[point] / 100, points.y[point] / 100]));
    return { exact, simple, corners: points.remaining, path: smoothPath(points, tolerance) };
  });
  await writeFile(process.env.EDGESAM_TEST_OUTLINES, JSON.stringify(found));
});

test("an image of indices is written", async () => {
  const png = await palettePng({ ...indexed, data: Uint8Array.from(indexed.data) });
  await writeFile(process.env.EDGESAM_TEST_PNG, new Uint8Array(await png.arrayBuffer()));
});

test("programs are written", async () => {
  const programs = requests.map((request) => Object.fromEntries(Object.entries(SNIPPETS).map(([name, write]) => [name, write(request)])));
  await writeFile(process.env.EDGESAM_TEST_PROGRAMS, JSON.stringify(programs));
});

test("candidates are named by their sizes where these nest, else by numbers", () => {
  for (const { masks, names } of candidates) assert.deepEqual(candidateNames(masks), names);
});

/** A class list that is kept in an array of its texts, the newest last. */
function kept(texts = []) {
  return new ClassList(() => texts.at(-1) ?? null, (text) => texts.push(text));
}

test("classes keep their colours, and a list is read again", () => {
  const texts = [];
  const list = kept(texts);
  list.include(["cup", "plate", "cup", ""]);
  list.setColour("plate", "#123456");

  const again = kept(texts);

  assert.deepEqual(again.all().map(({ name }) => name), ["cup", "plate"]);
  assert.equal(again.colourOf("plate"), "#123456");
  assert.equal(again.colourOf("cup"), list.colourOf("cup"));
});

test("many classes have colours of their own", () => {
  const list = kept();
  list.include(Array.from({ length: 60 }, (_, i) => `class ${i}`));

  const colours = new Set(list.all().map(({ colour }) => colour));

  assert.equal(colours.size, 60);
  for (const colour of colours) assert.match(colour, /^#[0-9a-f]{6}$/);
});

test("a class that gets the name of another one becomes that one", () => {
  const list = kept();
  list.include(["cup", "plate"]);
  const colour = list.colourOf("plate");

  list.rename("cup", "plate");
  list.rename("plate", "dish");

  assert.deepEqual(list.all(), [{ name: "dish", colour }]);
});

test("a stored list that is none is an empty list", () => {
  for (const text of ["", "{", "null", "7", '[{"name": 1, "colour": "#000000"}]', '[{"name": "x", "colour": "red"}]', "[null]"]) {
    assert.deepEqual(kept([text]).all(), []);
  }
});
