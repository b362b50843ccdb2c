/** What of the client differs in Node, where no page is around it; started by test_client_module.py. */

import assert from "node:assert/strict";
import { openAsBlob } from "node:fs";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { Client, drawRaster, rasterOfPng, rasterOfRle } from "../../service/web/client/edgesam.js";

const { url, cases } = JSON.parse(await readFile(process.env.EDGESAM_TEST_CASES, "utf8"));

test("a Buffer, its memory, a view of it and a Blob are the same image", async () => {
  const client = new Client(url);
  const buffer = await readFile(cases.image);
  const { buffer: memory } = Uint8Array.from(buffer);
  const larger = new Uint8Array([1, 2, 3, ...buffer, 4, 5]);
  const view = new DataView(larger.buffer, 3, buffer.length);

  const embedded = [];
  for (const file of [buffer, memory, view, await openAsBlob(cases.image)]) embedded.push(await client.embed(file));

  const [{ image_hash, width, height }] = embedded;
  assert.deepEqual([width, height], [120, 90]);
  assert.deepEqual(new Set(embedded.map((each) => each.image_hash)), new Set([image_hash]));
});

test("a buffer that the caller writes into again does not change the image", async () => {
  const client = new Client(url);
  const original = Buffer.concat([await readFile(cases.image), Buffer.from(`written again by ${process.pid}`)]);
  const expected = (await client.embed(new Blob([original]))).image_hash;
  const buffer = Buffer.from(original);

  const embedding = client.embed(buffer);
  buffer.fill(0);

  assert.equal((await embedding).image_hash, expected);
});

test("what is no file is refused with the type that is needed", async () => {
  const client = new Client(url);
  for (const file of ["photo.jpg", null, undefined, 7, {}, await fetch(url)]) {
    await assert.rejects(client.embed(file), { name: "TypeError", message: /a Blob, a File or bytes/ });
  }
});

test("functions that need a browser say what works instead", async () => {
  const raster = rasterOfRle(cases.masks[0].rle);

  await assert.rejects(rasterOfPng("iVBORw0KGgo="), { name: "TypeError", message: /rasterOfRle/ });
  for (const canvas of [undefined, {}, { getContext: () => null }]) {
    assert.throws(() => drawRaster(canvas, raster), { name: "TypeError", message: /needs a canvas/ });
  }
});

test("a canvas of another package is drawn on", () => {
  const raster = { width: 2, height: 1, data: Uint8Array.of(0, 1) };
  const drawn = [];
  const createImageData = (width, height) => ({ data: new Uint8ClampedArray(4 * width * height) });
  const canvas = { width: 0, height: 0, getContext: () => ({ createImageData, putImageData: ({ data }) => drawn.push(...data) }) };

  assert.equal(drawRaster(canvas, raster, [255, 111, 31, 140]), canvas);
  assert.deepEqual(drawn, [0, 0, 0, 0, 255, 111, 31, 140]);
  assert.deepEqual([canvas.width, canvas.height], [2, 1]);
});
