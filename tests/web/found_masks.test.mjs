/** Which found masks lie at a position; started by test_found_masks.py with masks of pycocotools. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { FoundMasks } from "../../service/web/playground/found_masks.js";

const { masks, inside } = JSON.parse(await readFile(process.env.EDGESAM_TEST_CASES, "utf8"));

function filled() {
  const found = new FoundMasks();
  for (const mask of masks) found.add(mask.id, mask);
  return found;
}

test("a position finds the masks that hold its pixel, smallest first", () => {
  const found = filled();

  for (const [y, row] of inside.entries()) {
    for (const [x, ids] of row.entries()) {
      for (const [dx, dy] of [[0, 0], [0.5, 0.5], [0.9, 0.1]]) {
        assert.deepEqual(found.at({ x: x + dx, y: y + dy }).map(({ id }) => id), ids, `${x} ${y}`);
      }
    }
  }
});

test("a position at the far edges of the image, or beside it, is in no mask", () => {
  const found = filled();
  const [height, width] = masks[0].rle.size;

  for (const at of [{ x: width, y: 1 }, { x: 1, y: height }, { x: -1, y: 1 }, { x: 1, y: -1 }]) assert.deepEqual(found.at(at), []);
});

test("dropped masks are not found, and the rest gets the order of the result", () => {
  const found = filled();
  const ids = masks.map(({ id }) => id);

  found.drop(ids.slice(0, 2));
  found.arrange([...ids.slice(2).reverse(), 999]);

  assert.deepEqual(found.masks.map(({ id }) => id), ids.slice(2).reverse());
  assert.equal(found.size, ids.length - 2);
});
