/** The client module in Node, against the real service; started by test_client_module.py. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { afterEach, test } from "node:test";

import {
  Client,
  Problem,
  Unreachable,
  decodeCounts,
  decodeLogits,
  parseServerTiming,
  rasterOfLogits,
  rasterOfRle,
  sha256,
} from "../../service/web/client/edgesam.js";
import { percentile, split } from "../../service/web/playground/latency.js";
import { cardAddress, licenceOf } from "../../service/web/playground/model_choice.js";
import { outlines, pathOf } from "../../service/web/client/outlines.js";
import { Session } from "../../service/web/playground/session.js";
import { Sha256 } from "../../service/web/client/sha256.js";

const { url, twoModelsUrl, cases } = JSON.parse(await readFile(process.env.EDGESAM_TEST_CASES, "utf8"));
const CLICK = { points: [{ x: 40, y: 30, label: 1 }] };

const opened = [];
afterEach(() => opened.splice(0).forEach((server) => server.close()));

/** A server of our own, for answers that the service gives only when it is in trouble. */
async function serverThat(answers) {
  const server = createServer(answers);
  opened.push(server);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${server.address().port}/`;
}

/** An image that nobody has embedded: the seed is appended to its file. */
async function imageFile(seed) {
  const bytes = await readFile(cases.image);
  return new Blob([bytes, `seed ${seed} of ${process.pid}`], { type: "image/png" });
}

function hexOf(bytes) {
  return Buffer.from(bytes).toString("hex");
}

test("hashes are those of the standard, wherever the pieces are cut", () => {
  for (const { text, pieces, digest } of cases.hashes) {
    const bytes = Buffer.from(text, "latin1");
    const hash = new Sha256();
    for (let start = 0; start < bytes.length; start += pieces) hash.update(bytes.subarray(start, start + pieces));
    assert.equal(hexOf(hash.digest()), digest);
  }
});

test("a file has the same hash with and without the browser's help", async () => {
  const blob = new Blob([new Uint8Array(3 * 2 ** 20 + 17).map((_, i) => i * 31)]);
  const helped = await sha256(blob);
  const subtle = Object.getOwnPropertyDescriptor(globalThis, "crypto");
  const progress = [];

  Object.defineProperty(globalThis, "crypto", { value: undefined, configurable: true });
  const alone = await sha256(blob, { onProgress: (done) => progress.push(done) });
  Object.defineProperty(globalThis, "crypto", subtle);

  assert.equal(alone, helped);
  assert.equal(progress.length, 4);
  assert.equal(progress.at(-1), 1);
});

test("run lengths give pycocotools' pixels", () => {
  for (const { rle, pixels } of cases.masks) {
    const { width, height, data } = rasterOfRle(rle);
    assert.deepEqual([height, width], rle.size);
    assert.equal(Array.from(data).join(""), pixels);
  }
});

test("a smaller raster says what the mask says at the middle of its pixels", () => {
  for (const { rle, pixels } of cases.masks) {
    const [imageHeight, imageWidth] = rle.size;
    const size = { width: Math.ceil(imageWidth / 3), height: Math.ceil(imageHeight / 2) };
    const { data } = rasterOfRle(rle, size);
    for (let at = 0; at < data.length; at++) {
      const x = Math.floor(((at % size.width) + 0.5) * (imageWidth / size.width));
      const y = Math.floor((Math.floor(at / size.width) + 0.5) * (imageHeight / size.height));
      assert.equal(data[at], Number(pixels[y * imageWidth + x]));
    }
  }
});

test("broken run lengths are refused and hold nobody up", () => {
  assert.throws(() => decodeCounts("o"), RangeError);
  assert.throws(() => rasterOfRle({ size: [2, 2], counts: "3" }), RangeError);
  assert.throws(() => decodeLogits("AAAA"), RangeError);
});

test("outlines filled give the raster back", () => {
  for (const { rle } of cases.masks) {
    const raster = rasterOfRle(rle);
    const filled = new Uint8Array(raster.data.length);
    for (const line of outlines(raster)) {
      for (let i = 0; i < line.length; i += 2) {
        const [x, y] = [line[i], line[i + 1]];
        const [nextX, nextY] = [line[(i + 2) % line.length], line[(i + 3) % line.length]];
        if (x !== nextX) continue;
        for (let row = Math.min(y, nextY); row < Math.max(y, nextY); row++) {
          for (let column = x; column < raster.width; column++) filled[row * raster.width + column] ^= 1;
        }
      }
    }
    assert.deepEqual(filled, raster.data);
    assert.match(pathOf(outlines(raster)), /^(M\d+ \d+([HV]\d+)+Z)*$/);
  }
});

test("stages are read from the header and together make the round trip", () => {
  const stages = parseServerTiming("queue;dur=0.50, decode;dur=15.25, total;dur=17.00");
  const parts = split(stages, 20);

  assert.deepEqual(stages, { queue: 0.5, decode: 15.25, total: 17 });
  assert.deepEqual(parts, [["queue", 0.5], ["decode", 15.25], ["other", 1.25], ["network", 3]]);
  assert.deepEqual(parseServerTiming(null), {});
  assert.equal(percentile([5, 1, 4, 2, 3], 0.5), 3);
  assert.equal(percentile([5, 1, 4, 2, 3], 0.95), 5);
});

test("a mask of an answer is a prompt of the next", async () => {
  const client = new Client(url);
  const { image_hash } = await client.embed(await imageFile(7));
  const first = await client.segment(image_hash, [CLICK], { multimask: 1 });

  const { results } = await client.segment(image_hash, [{ mask: first.results[0].masks[0].rle }]);

  assert.equal(results[0].masks.length, 1);
  assert.notEqual(results[0].masks[0].mask_id, first.results[0].masks[0].mask_id);
});

test("an image is uploaded once and segmented by its hash", async () => {
  const client = new Client(url);
  const file = await imageFile(1);
  const progress = [];

  const first = await client.embed(file, { onProgress: ({ stage }) => progress.push(stage) });
  const again = await client.embed(file);
  const { width, height, results, timing } = await client.segment(first.image_hash, [CLICK], { multimask: 3 });

  assert.equal(first.image_hash, await sha256(file));
  assert.equal(first.cached, null);
  assert.equal(again.cached, "memory");
  for (const embedded of [first, again]) {
    assert.deepEqual([embedded.width, embedded.height, embedded.orientation], [width, height, 1]);
  }
  assert.equal(results[0].masks.length, 3);
  assert.ok(timing.stages.decode > 0 && timing.roundTripMs >= timing.stages.decode);
  assert.deepEqual([...new Set(progress)].slice(0, 3), ["hash", "look-up", "upload"]);
  for (const { rle, area } of results[0].masks) {
    assert.equal(rasterOfRle(rle).data.reduce((sum, value) => sum + value, 0), area);
  }
});

test("levels and bands give an image of its own, also when it is known or evicted", async () => {
  const client = new Client(url);
  const file = await imageFile(5);
  const reading = { levels: "percentile", bands: [3, 2, 1] };

  const plain = await client.embed(file);
  const first = await client.embed(file, reading);
  const again = await client.embed(file, { ...reading, bands: "3,2,1" });
  const before = await client.segment(first.image_id, [CLICK]);
  await fetch(`${url}embed/${first.image_hash}`, { method: "DELETE" });
  const after = await client.segment(first.image_id, [CLICK]);

  assert.equal(plain.image_id, plain.image_hash);
  assert.equal(first.image_id, `${plain.image_hash}~levels=percentile~bands=3,2,1`);
  assert.deepEqual([first.cached, first.levels, first.orientation], [null, "percentile", 1]);
  assert.equal(again.cached, "memory");
  for (const member of ["image_hash", "image_id", "width", "height", "orientation", "levels"]) {
    assert.equal(again[member], first[member], member);
  }
  assert.equal(before.image_id, first.image_id);
  assert.deepEqual(after.results, before.results);
  assert.equal(await client.has(plain.image_id), null);
});

test("a model embeds and answers by its name, as option of the client and of a call", async () => {
  const client = new Client(twoModelsUrl);
  const [first, second] = await client.models();
  const other = new Client(twoModelsUrl, { model: second.name });
  const file = await imageFile(8);

  const known = await client.embed(file);
  assert.equal(await client.has(known.image_id, { model: second.name }), null);
  const answers = [await client.segment(known.image_id, [CLICK]), await client.segment(known.image_id, [CLICK], { model: second.name })];
  const embedded = await other.embed(file);
  const answer = await other.segment(embedded.image_id, [CLICK]);
  const tokens = await Promise.all([client.embedding(known.image_id), other.embedding(known.image_id)]);

  assert.deepEqual(answers.map(({ model }) => model), [first.name, second.name]);
  assert.notDeepEqual(answers[0].results[0].masks[0].rle, answers[1].results[0].masks[0].rle);
  assert.equal(embedded.cached, "memory"); // the call with the other model has embedded the image
  assert.deepEqual(answer.results[0].masks[0].rle, answers[1].results[0].masks[0].rle);
  assert.deepEqual(tokens.map(({ fingerprint }) => fingerprint), [first.fingerprint, second.fingerprint]);
});

test("a model that is not served is a problem that lists those that are", async () => {
  const client = new Client(twoModelsUrl, { model: "none of them" });
  const names = (await client.models()).map(({ name }) => name);
  const listsThem = (error) => error.code === "model-not-found" && names.every((name) => error.message.includes(name));

  await assert.rejects(client.embed(await imageFile(9)), listsThem);
  await assert.rejects(client.segment("0".repeat(64), [CLICK]), listsThem);
});

test("the licence is a short sentence, and says of commercial use what it does not say itself", () => {
  const long = "research and non-commercial use: some of the photos it was trained on allow no more";

  assert.equal(licenceOf({ licence: "Apache-2.0", commercial_use: true }), "Licence: Apache-2.0. Commercial use is allowed.");
  assert.equal(licenceOf({ licence: long, commercial_use: false }), "Licence: research and non-commercial use.");
  assert.equal(licenceOf({ licence: "CC-BY-NC-4.0", commercial_use: false }), "Licence: CC-BY-NC-4.0. Commercial use is not allowed.");
  assert.equal(
    licenceOf({ licence: "S-Lab License 1.0 (non-commercial), https://example.org/LICENSE", commercial_use: false }),
    "Licence: S-Lab License 1.0 (non-commercial).",
  );
  assert.equal(licenceOf({ licence: "our own", commercial_use: null }), "Licence: our own.");
});

test("a model card is at its own address or below the service's, and never a script", () => {
  const service = "https://masks.example/prefix/";

  assert.equal(cardAddress({ card: "models/lite/card" }, service), "https://masks.example/prefix/models/lite/card");
  assert.equal(cardAddress({ card: "https://example.org/card" }, service), "https://example.org/card");
  for (const card of ["", "javascript:alert(1)", "data:text/html,x", "https://"]) {
    assert.equal(cardAddress({ card }, service), null, card);
  }
});

test("logits give nearly the mask that the service makes of them", async () => {
  const client = new Client(url);
  const { image_hash, width, height } = await client.embed(await imageFile(2));
  const options = { multimask: 1 };

  const [inRuns, inLogits] = await Promise.all([
    client.segment(image_hash, [CLICK], options),
    client.segment(image_hash, [CLICK], { ...options, format: "logits" }),
  ]);
  const exact = rasterOfRle(inRuns.results[0].masks[0].rle).data;
  const near = rasterOfLogits(decodeLogits(inLogits.results[0].masks[0].logits), { width, height }).data;

  const differing = exact.reduce((sum, value, i) => sum + Math.abs(value - near[i]), 0);
  assert.ok(differing < 0.03 * exact.length, `${differing} of ${exact.length} pixels`); // noise is all edges
});

test("logits of a stretched image cover all of it, each axis with its own scale", () => {
  const logits = new Float32Array(256 * 256).map((_, i) => (i >= 128 * 256 && i % 256 >= 64 ? 1 : -1));
  const image = { width: 1000, height: 200 };

  const { data } = rasterOfLogits(logits, image, image, "stretch");
  const letterboxed = rasterOfLogits(logits, image).data;

  assert.ok(data.every((value, i) => value === Number(i >= 100 * 1000 && i % 1000 >= 250)));
  assert.ok(letterboxed.every((value) => value === 0)); // its rows 128 to 255 are padding
});

test("an evicted image is embedded again, once for all requests that wait for it", async () => {
  const restored = [];
  const client = new Client(url, { onRestore: (_, { stage }) => restored.push(stage) });
  const { image_hash } = await client.embed(await imageFile(3));
  await fetch(`${url}embed/${image_hash}`, { method: "DELETE" });

  const answers = await Promise.all([1, 2, 3].map(() => client.segment(image_hash, [CLICK])));

  assert.ok(answers.every(({ results }) => results[0].masks.length === 4));
  assert.equal(restored.filter((stage) => stage === "upload").length, 1);
});

test("an image that the client does not know is a problem", async () => {
  const client = new Client(url);
  const file = await imageFile(4);
  const { image_hash } = await client.embed(file);
  client.forget(image_hash);
  await fetch(`${url}embed/${image_hash}`, { method: "DELETE" });

  await assert.rejects(client.segment(image_hash, [CLICK]), (error) => {
    assert.ok(error instanceof Problem);
    assert.equal(error.code, "embedding-not-found");
    assert.match(error.message, /POST the image/);
    assert.ok(error.requestId);
    return true;
  });
});

test("aborting ends a request with the signal's own reason", async () => {
  const silent = await serverThat(() => {});
  const controller = new AbortController();
  const reason = new Error("the user went on");

  const asked = new Client(silent).segment("0".repeat(64), [CLICK], { signal: controller.signal });
  controller.abort(reason);

  await assert.rejects(asked, reason);
  await assert.rejects(new Client(silent).models({ signal: controller.signal }), reason);
});

test("a service that is silent or not there is told apart", async () => {
  const silent = await serverThat(() => {});
  const isUnreachable = (code) => (error) => error instanceof Unreachable && error.code === code;

  await assert.rejects(new Client(silent, { timeoutMs: 50 }).models(), isUnreachable("timeout"));
  await assert.rejects(new Client("http://127.0.0.1:9/").models(), isUnreachable("unreachable"));
});

test("a busy service is asked again after the time it names", async () => {
  const times = [];
  const busyOnce = await serverThat((request, response) => {
    times.push(performance.now());
    if (times.length > 1) response.end(JSON.stringify({ results: [] }));
    else response.writeHead(503, { "Retry-After": "1" }).end(JSON.stringify({ code: "overloaded", status: 503 }));
  });

  const { results } = await new Client(busyOnce).segment("0".repeat(64), [CLICK]);

  assert.deepEqual(results, []);
  assert.ok(times[1] - times[0] >= 990);
});

test("what a proxy answers instead of the service is a problem as well", async () => {
  const proxy = await serverThat((request, response) => response.writeHead(502).end("<h1>Bad gateway</h1>"));

  await assert.rejects(new Client(proxy).models(), (error) => error instanceof Problem && error.code === "http-502");
});

test("keys and hashes travel in headers, under the service's prefix", async () => {
  const seen = [];
  const server = await serverThat((request, response) => {
    seen.push(request);
    response.end(JSON.stringify({ results: [] }));
  });

  const client = new Client(`${server}masks`, { apiKey: "secret-secret" });
  await client.segment("a".repeat(64), [CLICK]);
  await client.segment(`${"a".repeat(64)}~levels=full`, [CLICK]);

  assert.equal(seen[1].headers["x-image-hash"], "a".repeat(64)); // all readings of an image reach one replica
  assert.equal(seen[0].url, "/masks/segment");
  assert.equal(seen[0].headers["x-api-key"], "secret-secret");
  assert.equal(seen[0].headers["x-image-hash"], "a".repeat(64));
});

test("outside a page the client asks for the service's address", () => {
  assert.throws(() => new Client(), /Give the address of the service/);
});

test("undo and redo find earlier prompts and their masks again", () => {
  const session = new Session();
  const point = (x) => ({ x, y: 1, label: 1 });
  session.addPoint(point(1));
  const first = session.selected.prompt;
  session.answer(first, [{ mask_id: "a" }, { mask_id: "b" }]);
  session.choose(-1);
  session.addPoint(point(2));
  const second = session.selected.prompt;

  assert.equal(second.refined.mask_id, "b");
  assert.equal(session.mask(session.selected).mask_id, "b"); // shown until the second is answered
  session.undo();
  assert.equal(session.selected.prompt, first);
  assert.equal(session.mask(session.selected).mask_id, "b");
  session.redo();
  assert.equal(session.selected.prompt, second);
  session.removeObject(session.selected.id);
  assert.equal(session.objects.length, 1);
  assert.ok(session.isEmpty);
  session.undo();
  assert.equal(session.selected.prompt, second);
});

test("dropped masks are neither shown nor refined, and prompts and undo stay", () => {
  const session = new Session();
  const mask = { mask_id: "a" };
  session.addPoint({ x: 1, y: 1, label: 1 });
  const first = session.selected.prompt;
  session.answer(first, [mask]);
  session.addPoint({ x: 2, y: 1, label: 1 });
  assert.ok(session.knows(session.selected.prompt.refined));

  session.dropMasks();

  assert.equal(session.mask(session.selected), null);
  assert.ok(!session.knows(session.selected.prompt.refined));
  assert.equal(session.selected.prompt.points.length, 2);
  session.undo();
  assert.equal(session.selected.prompt, first);
  assert.ok(!session.isAnswered(first));
});

test("a look-up asks for the image in memory only where the caller wants that", async () => {
  const asked = [];
  const known = { "X-Cache": "redis", "X-Image-Size": "60,40" };
  const client = new Client(
    await serverThat((request, response) => {
      asked.push([request.method, request.headers.prefer, request.headers["x-image-hash"]]);
      response.writeHead(200, known).end();
    }),
  );
  const file = await imageFile("prefetch");

  const [plain, ahead] = [await client.embed(file), await client.embed(file, { prefetch: true })];

  assert.deepEqual(asked, [["HEAD", undefined, undefined], ["HEAD", "prefetch", await sha256(file)]]);
  assert.equal(ahead.image_id, plain.image_id);
  assert.equal(ahead.prefetch, undefined);
});
