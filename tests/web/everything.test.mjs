/** Everything mode, regions and look-ups of the client module in Node; started by test_client_module.py. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { afterEach, test } from "node:test";

import { Client, Problem, Unreachable, maskOfEverything, rasterOfRle } from "../../service/web/client/edgesam.js";

const { url: serviceUrl, withoutRedisUrl, cases } = JSON.parse(await readFile(process.env.EDGESAM_TEST_CASES, "utf8"));
const HASH = "0".repeat(64);
const START = {
  event: "start", prompts: 4, image_hash: HASH, image_id: HASH, width: 8, height: 6, orientation: 1, model: "m",
  parameters: { points_per_side: 2 }, cached: null,
};
const RECORD = {
  segmentation: { size: [6, 8], counts: "6" }, area: 4, bbox: [1, 2, 3, 4], predicted_iou: 0.9, stability_score: 0.8,
  point_coords: [[2, 3]], crop_box: [0, 0, 8, 6],
};

const opened = [];
afterEach(() => opened.splice(0).forEach((server) => server.close() && server.closeAllConnections()));

/** A server of our own, for answers that the service gives only when it is in trouble. */
async function serverThat(answers) {
  const server = createServer(answers);
  opened.push(server);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${server.address().port}/`;
}

/** A server that sends the events as lines, in pieces of a few bytes. */
function eventServer(events, { pieces = 7, end = (response) => response.end() } = {}) {
  return serverThat(async (request, response) => {
    const bytes = Buffer.from(events.map((event) => `${typeof event === "string" ? event : JSON.stringify(event)}\n`).join(""));
    response.writeHead(200, { "Content-Type": "application/x-ndjson" });
    for (let at = 0; at < bytes.length; at += pieces) response.write(bytes.subarray(at, at + pieces));
    end(response);
  });
}

function mask(id, rest = {}) {
  return { event: "mask", id, ...RECORD, ...rest };
}

function isIncomplete(error) {
  return error instanceof Unreachable && error.code === "incomplete";
}

/** An image of 120 x 90 pixels that nobody has embedded: the seed is appended to its file. */
async function imageFile(seed) {
  return new Blob([await readFile(cases.image), `seed ${seed} of ${process.pid}`], { type: "image/png" });
}

test("the service's masks are those that its events have told", async () => {
  const client = new Client(serviceUrl);
  const { image_id } = await client.embed(await imageFile(1));
  const told = new Map();
  const onEvent = (event) => {
    if (event.event === "mask") told.set(event.id, event);
    if (event.event === "drop") event.ids.forEach((id) => told.delete(id));
  };

  const { masks, parameters } = await client.segmentEverything(image_id, { pointsPerSide: 3, predIouThresh: 0, stabilityScoreThresh: 0, onEvent });

  assert.equal(parameters.points_per_side, 3);
  assert.ok(masks.length > 0);
  assert.deepEqual(new Set(masks.map(({ id }) => id)), new Set(told.keys()));
  for (const mask of masks) {
    const { rle, area } = maskOfEverything(mask);
    assert.equal(rasterOfRle(rle).data.reduce((sum, value) => sum + value, 0), area);
  }
});

test("a region is an image of its own with the pixels of the whole, and is embedded again when it is lost", async () => {
  const client = new Client(serviceUrl);
  const file = await imageFile(2);
  const region = [30, 20, 100, 80];

  const first = await client.embed(file, { region });
  const again = await client.embed(file, { region });
  const whole = await client.embed(file, { region: [0, 0, 120, 90] });
  const prompts = [{ points: [{ x: 60, y: 50 }] }];
  const before = await client.segment(first.image_id, prompts);
  await fetch(`${serviceUrl}embed/${first.image_hash}`, { method: "DELETE" });
  const after = await client.segment(first.image_id, prompts);

  assert.equal(first.image_id, `${first.image_hash}~region=30,20,100,80`);
  assert.deepEqual([first.region, first.width, first.height], [region, 120, 90]);
  assert.deepEqual([again.image_id, again.region, again.cached], [first.image_id, region, "memory"]);
  assert.deepEqual([whole.image_id, whole.region], [first.image_hash, null]);
  assert.deepEqual(before.results[0].masks[0].rle.size, [90, 120]);
  assert.deepEqual(after.results, before.results);
});

test("a service that has lost its Redis gets the image", async () => {
  const client = new Client(withoutRedisUrl);
  const file = await imageFile(3);

  const { image_id } = await client.embed(file);
  const region = await client.embed(file, { region: [0, 0, 60, 60] });

  assert.equal((await client.segment(image_id, [{ points: [{ x: 60, y: 50 }] }])).results.length, 1);
  assert.deepEqual(region.region, [0, 0, 60, 60]);
});

test("masks are those at the end, best first, and each event is told as it comes", async () => {
  const events = [START, mask(0), { event: "progress", done: 2, prompts: 4 }, mask(5), mask(7), { event: "drop", ids: [5] },
    { event: "end", ids: [7, 0] }];
  const client = new Client(await eventServer(events));
  const told = [];

  const { masks, parameters, width, roundTripMs } = await client.segmentEverything(HASH, { onEvent: (event) => told.push(event) });

  assert.deepEqual(masks, [{ id: 7, ...RECORD }, { id: 0, ...RECORD }]);
  assert.deepEqual(told, events);
  assert.deepEqual([parameters, width], [{ points_per_side: 2 }, 8]);
  assert.ok(roundTripMs > 0);
  assert.deepEqual(maskOfEverything(masks[0]), {
    rle: RECORD.segmentation, area: 4, box: [1, 2, 4, 6], score: 0.9, stability: 0.8, predicted_iou: 0.9,
  });
});

test("characters of several bytes survive the pieces that they arrive in", async () => {
  const events = [{ ...START, model: "größer 模型" }, { event: "end", ids: [] }];
  const client = new Client(await eventServer(events, { pieces: 1 }));

  assert.equal((await client.segmentEverything(HASH)).model, "größer 模型");
});

test("options have SAM's names in the request, and those that are missing are left to the model", async () => {
  const asked = [];
  const url = await serverThat(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    asked.push(request.url, request.headers.accept, request.headers["x-image-hash"], JSON.parse(Buffer.concat(chunks)));
    response.end(`${JSON.stringify(START)}\n{"event":"end","ids":[]}\n`);
  });
  const id = `${HASH}~region=0,0,40,40`;

  await new Client(url, { model: "small" }).segmentEverything(id, {
    pointsPerSide: 8, predIouThresh: 0.5, stabilityScoreThresh: 0.6, boxNmsThresh: 0.7, minMaskRegionArea: 9, maxMasks: 10,
    fast: true, format: "none", tolerancePixels: undefined,
  });

  assert.deepEqual(asked, ["/segment/everything", "application/x-ndjson", HASH, {
    image_hash: id, points_per_side: 8, pred_iou_thresh: 0.5, stability_score_thresh: 0.6, box_nms_thresh: 0.7,
    min_mask_region_area: 9, max_masks: 10, fast: true, format: "none", model: "small",
  }]);
});

test("an answer that is cut off is an error, wherever the cut is", async () => {
  const whole = [START, mask(0), { event: "end", ids: [0] }];
  for (const events of [[], whole.slice(0, 1), whole.slice(0, 2), [START, JSON.stringify(mask(0)).slice(0, 40)]]) {
    await assert.rejects(new Client(await eventServer(events)).segmentEverything(HASH), isIncomplete);
  }
  const reset = await eventServer(whole.slice(0, 2), { end: (response) => response.socket.destroy() });
  await assert.rejects(new Client(reset).segmentEverything(HASH), Unreachable);
});

test("an answer of another program is an error", async () => {
  const answers = [["<html>"], ["[]"], ["null"], [mask(0)], [START, START], [START, { event: "end", ids: [3] }],
    [START, { event: "drop", ids: 3 }]];
  for (const events of answers) {
    await assert.rejects(new Client(await eventServer(events)).segmentEverything(HASH), isIncomplete, JSON.stringify(events));
  }
});

test("a line without an end is not read forever", async () => {
  let written = 0;
  const url = await serverThat((request, response) => {
    const more = () => {
      while (!response.destroyed && response.write("x".repeat(2 ** 20))) written++;
    };
    response.on("drain", more);
    more();
  });

  await assert.rejects(new Client(url).segmentEverything(HASH), isIncomplete);
  assert.ok(written < 100, `${written} MiB`);
});

test("a problem after the start is the service's problem and is not repeated", async () => {
  let requests = 0;
  const problem = { status: 503, code: "overloaded", title: "Overloaded", detail: "Try again.", instance: "r1" };
  const url = await serverThat((request, response) => {
    requests++;
    response.end(`${JSON.stringify(START)}\n${JSON.stringify({ event: "error", problem })}\n`);
  });

  await assert.rejects(new Client(url).segmentEverything(HASH), (error) => {
    assert.ok(error instanceof Problem);
    assert.deepEqual([error.status, error.code, error.message, error.requestId], [503, "overloaded", "Try again.", "r1"]);
    return true;
  });
  assert.equal(requests, 1);
});

test("a caller's second request waits for the first as the service says", async () => {
  const statuses = [429, 503, 200];
  const url = await serverThat((request, response) => {
    const status = statuses.shift();
    if (status === 200) response.end(`${JSON.stringify(START)}\n{"event":"end","ids":[]}\n`);
    else response.writeHead(status, { "Retry-After": "0" }).end(JSON.stringify({ code: "rate-limited", status }));
  });

  assert.deepEqual((await new Client(url).segmentEverything(HASH)).masks, []);
  assert.deepEqual(statuses, []);
});

test("aborting ends the request with the signal's reason and closes the connection", async () => {
  let close;
  const closed = new Promise((resolve) => (close = resolve));
  const url = await serverThat((request, response) => {
    response.on("close", close);
    response.write(`${JSON.stringify(START)}\n`);
  });
  const controller = new AbortController();
  const reason = new Error("the user went on");

  await assert.rejects(
    new Client(url).segmentEverything(HASH, { signal: controller.signal, onEvent: () => controller.abort(reason) }), reason);
  await closed;
});

test("an error of the callback ends the request and is thrown as it is", async () => {
  const error = new TypeError("of the page");
  const url = await serverThat((request, response) => response.write(`${JSON.stringify(START)}\n`));

  await assert.rejects(new Client(url).segmentEverything(HASH, { onEvent: () => { throw error; } }), error);
});

test("a silent service is a timeout, also after the start", async () => {
  const url = await serverThat((request, response) => response.write(`${JSON.stringify(START)}\n`));

  await assert.rejects(new Client(url, { timeoutMs: 100 }).segmentEverything(HASH),
    (error) => error instanceof Unreachable && error.code === "timeout");
});

test("an image is uploaded where the look-up is not possible", async () => {
  const requests = [];
  const url = await serverThat((request, response) => {
    requests.push(`${request.method} ${request.url.slice(0, 6)}`);
    request.resume();
    if (request.method === "HEAD") response.writeHead(503, { "Retry-After": "1" }).end();
    else response.end(JSON.stringify({ image_hash: HASH, image_id: HASH, cached: null, width: 8, height: 6 }));
  });

  const { image_id } = await new Client(url).embed(new Blob(["image"]));

  assert.equal(image_id, HASH);
  assert.deepEqual(requests, ["HEAD /embed", "POST /embed"]);
});
