/** Repetitions, aborts and problems of the client module; started by test_client_module.py. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { afterEach, test } from "node:test";

import { Client, Problem } from "../../service/web/client/edgesam.js";

const { url: serviceUrl } = JSON.parse(await readFile(process.env.EDGESAM_TEST_CASES, "utf8"));
const HASH = "0".repeat(64);
const CLICK = { points: [{ x: 40, y: 30 }] };
const EMBEDDED = { image_hash: HASH, image_id: HASH, cached: null, width: 640, height: 427, orientation: 1, levels: "full" };
const START = { event: "start", image_hash: HASH, image_id: HASH, width: 640, height: 427, prompts: 4 };

const opened = [];
afterEach(() => opened.splice(0).forEach((server) => server.close()));

/** A server of our own, for answers that the service gives only when it is in trouble. */
async function serverThat(answers) {
  const server = createServer(answers);
  opened.push(server);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${server.address().port}/`;
}

function refuse(response, status, code, headers = {}) {
  response.writeHead(status, headers).end(JSON.stringify({ status, code, title: "Refused", detail: "" }));
}

for (const status of [429, 502, 503, 504]) {
  test(`a request is repeated after ${status}, and not forever`, async () => {
    let requests = 0;
    const url = await serverThat((_, response) => {
      requests++;
      refuse(response, status, "busy", { "Retry-After": "0" });
    });
    const isStatus = (error) => error instanceof Problem && error.status === status && error.retryAfterS === 0;

    await assert.rejects(new Client(url).segment(HASH, [CLICK]), isStatus);
    assert.equal(requests, 3);
    await assert.rejects(new Client(url).segment(HASH, [CLICK], { isGlimpse: true }), isStatus);
    assert.equal(requests, 4);
  });
}

test("a request is not repeated where the service names a long wait, or refuses it for good", async () => {
  const answers = [[429, "60"], [500, "0"], [422, "0"]];
  let requests = 0;
  const url = await serverThat((_, response) => {
    const [status, wait] = answers[requests++];
    refuse(response, status, "refused", { "Retry-After": wait });
  });

  for (const [status] of answers) {
    await assert.rejects(new Client(url).segment(HASH, [CLICK]), (error) => error instanceof Problem && error.status === status);
  }
  assert.equal(requests, answers.length);
});

test("a look-up that a rate limit refuses is repeated, so that the image is not uploaded", async () => {
  const methods = [];
  const url = await serverThat((request, response) => {
    methods.push(request.method);
    if (methods.length === 1) refuse(response, 429, "rate-limited", { "Retry-After": "0" });
    else response.writeHead(200, { "X-Image-Size": "640,427", "X-Cache": "memory" }).end();
  });

  assert.equal((await new Client(url).embed(Buffer.from("an image"))).cached, "memory");
  assert.deepEqual(methods, ["HEAD", "HEAD"]);
});

test("aborting ends the wait before a repetition with the signal's reason", async () => {
  let answered;
  const refused = new Promise((resolve) => (answered = resolve));
  let requests = 0;
  const url = await serverThat((_, response) => {
    response.on("finish", answered);
    if (requests++) response.end(JSON.stringify({ results: [] }));
    else refuse(response, 503, "overloaded", { "Retry-After": "9" });
  });
  const controller = new AbortController();
  const reason = new Error("the user went on");

  const asked = new Client(url).segment(HASH, [CLICK], { signal: controller.signal });
  refused.then(() => setImmediate(() => controller.abort(reason)));

  await assert.rejects(asked, reason);
  assert.equal(requests, 1);
});

test("a caller that aborts does not wait for an image that is embedded again, and the others get it", async () => {
  const uploads = [];
  let begun;
  const embedding = new Promise((resolve) => (begun = resolve));
  const url = await serverThat((request, response) => {
    if (request.method === "HEAD") return refuse(response, 404, "embedding-not-found");
    if (request.url === "/segment" && uploads.length < 2) return refuse(response, 404, "embedding-not-found");
    if (request.url === "/segment") return response.end(JSON.stringify({ results: ["a mask"] }));
    if (uploads.push(response) === 1) return response.end(JSON.stringify(EMBEDDED));
    return begun();
  });
  const client = new Client(url);
  const { image_id } = await client.embed(Buffer.from("an image"));
  const controller = new AbortController();
  const reason = new Error("the user went on");

  const aborted = client.segment(image_id, [CLICK], { signal: controller.signal });
  const other = client.segment(image_id, [CLICK]);
  await embedding;
  controller.abort(reason);
  await assert.rejects(aborted, reason); // the upload has no answer yet
  uploads[1].end(JSON.stringify(EMBEDDED));

  assert.deepEqual((await other).results, ["a mask"]);
  assert.equal(uploads.length, 2);
});

test("a wait before a repetition may be longer than the timeout", async () => {
  let requests = 0;
  const url = await serverThat((_, response) => {
    if (requests++) response.end(`${JSON.stringify(START)}\n{"event":"end","ids":[]}\n`);
    else refuse(response, 429, "rate-limited", { "Retry-After": "1" });
  });

  assert.deepEqual((await new Client(url, { timeoutMs: 500 }).segmentEverything(HASH)).masks, []);
});

test("a problem has the type and all members of the service's document", async () => {
  await assert.rejects(new Client(serviceUrl).segment(HASH, []), (error) => {
    assert.ok(error instanceof Problem);
    assert.equal(error.type, `/problems/${error.code}`);
    assert.equal(error.document.errors[0].where, "/prompts");
    assert.equal(error.document.instance, error.requestId);
    return true;
  });
});
