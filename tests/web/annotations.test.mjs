/** Exports of the JavaScript client; started by test_annotation_modules.py with what the Python client exports of the same masks. */

import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { test } from "node:test";

import { cocoDataset, labelmeDocument, safeFileName, stemOf, yoloFiles } from "../../service/web/edgesam.js";
import { zip } from "../../service/web/playground/zip.js";

const { images, coco, rle, yolo, labelme, names } = JSON.parse(await readFile(process.env.EDGESAM_TEST_CASES, "utf8"));

test("COCO is what the Python client writes", () => {
  assert.deepEqual(cocoDataset(images), coco);
  assert.deepEqual(cocoDataset(images, { segmentation: "rle" }), rle);
});

test("labelme is what the Python client writes", () => {
  assert.deepEqual(images.map((image) => labelmeDocument(image)), labelme);
});

test("YOLO files are what the Python client writes", () => {
  const { "data.yaml": yaml, ...labels } = Object.fromEntries(yoloFiles(images));
  const { "data.yaml": expectedYaml, ...expected } = yolo;

  assert.deepEqual(labels, expected);
  assert.equal(yaml, expectedYaml);
});

test("names that are no files of their own are refused", () => {
  const [image] = images;
  assert.throws(() => yoloFiles([{ ...image, name: "../photo.jpg" }]), RangeError);
  assert.throws(() => yoloFiles([{ ...image, name: "photo.jpg" }, { ...image, name: "photo.png" }]), RangeError);
});

test("file names become safe ones", () => {
  for (const [name, safe, stem] of names) {
    assert.equal(safeFileName(name), safe);
    assert.equal(stemOf(safe), stem);
  }
});

test("a mask in another format than run lengths is refused with a sentence", () => {
  const [image] = images;
  const objects = [{ label: "x", mask: { ...image.objects[0].mask, rle: undefined } }];
  assert.throws(() => cocoDataset([{ ...image, objects }]), /format rle/);
});

test("files go into an archive", async () => {
  const files = new Map([["data.yaml", "train: images\n"], ["labels/é 花.txt", ""], ["images/photo.bin", new Blob([new Uint8Array(70000).fill(7)])]]);
  await writeFile(process.env.EDGESAM_TEST_ARCHIVE, new Uint8Array(await (await zip(files)).arrayBuffer()));
});
