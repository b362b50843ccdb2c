/** What decoding in the browser is made of, in Node; started by test_decoding_modules.py with numbers made there. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { tokensOf } from "../../service/web/browser_decoding/letterbox.js";
import { toFloat16, toFloat32 } from "../../service/web/client/float16.js";
import { base64OfBytes, decodeCounts, decodeLogits, encodeCounts, intersectionOverUnion } from "../../service/web/client/masks.js";
import { MaskCleaner, withBoxOfMask } from "../../service/web/browser_decoding/cleanup.js";
import { candidates, limitedScore, maskCount, preferAgreeing, rank, scoresOf } from "../../service/web/browser_decoding/ranking.js";
import { filterRuns } from "../../service/web/browser_decoding/run_pieces.js";
import { MaskEncoder } from "../../service/web/browser_decoding/mask_runs.js";

const cases = JSON.parse(await readFile(process.env.EDGESAM_TEST_CASES, "utf8"));

function bytesOf(base64) {
  const bytes = Buffer.from(base64, "base64");
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
}

test("every float16 number is the float32 number that NumPy makes of it, and comes back", () => {
  const all = Uint16Array.from({ length: 65536 }, (_, bits) => bits);
  const expected = new Float32Array(bytesOf(cases.singles));
  const singles = toFloat32(all);

  singles.forEach((number, i) => assert.ok(Object.is(number, expected[i]), `${i}: ${number}, ${expected[i]}`));
  toFloat16(singles).forEach((bits, i) => assert.ok(bits === i || Number.isNaN(singles[i])));
});

test("float32 numbers are rounded as NumPy rounds them", () => {
  const rounded = toFloat16(new Float32Array(bytesOf(cases.unrounded)));

  assert.deepEqual(rounded, new Uint16Array(bytesOf(cases.rounded)));
});

test("logits in base64 come back as they were", () => {
  const float16 = toFloat16(Float32Array.from({ length: 65536 }, (_, i) => (i - 30000) / 999));

  const decoded = decodeLogits(base64OfBytes(new Uint8Array(float16.buffer)));

  assert.deepEqual(decoded, toFloat32(float16));
});

test("prompts become the service's tokens", () => {
  for (const { prompt, size, points, labels } of cases.prompts) {
    const tokens = tokensOf(prompt, size);
    assert.deepEqual(Array.from(tokens.points), points);
    assert.deepEqual(Array.from(tokens.labels, Number), labels);
  }
});

test("a prompt gets the outputs that it gets from the service", () => {
  for (const { multimask, prompt, rules, indices, count } of cases.candidates) {
    const found = { indices: candidates(multimask, prompt, rules), count: maskCount(multimask, prompt, rules) };
    assert.deepEqual(found, { indices, count }, JSON.stringify([multimask, prompt, rules]));
  }
});

test("outputs have the service's scores to the last bit, and its order", () => {
  for (const { ranking, stability, predictedIou, scores, indices, order, ...rest } of cases.rankings) {
    const found = scoresOf(ranking, new Float32Array(bytesOf(stability)), new Float32Array(bytesOf(predictedIou)));

    assert.deepEqual(found, Array.from(new Float64Array(bytesOf(scores))), JSON.stringify(ranking));
    assert.deepEqual(found.map(limitedScore), Array.from(new Float64Array(bytesOf(rest.limited))));
    assert.deepEqual(rank(found, indices), order);
    assert.deepEqual(rank(preferAgreeing(found, rest.agrees, ranking.agreement), indices), rest.preferred);
  }
});

/** Transitions, also the end of the image, of run lengths that begin outside the mask. */
function transitionsOf(counts) {
  const transitions = [];
  counts.reduce((at, run) => (transitions.push(at + run), at + run), 0);
  return transitions.length % 2 ? transitions.slice(0, -1) : transitions;
}

test("small pieces and holes of enlarged masks go as in the service", () => {
  for (const { size, counts, marked, filtered } of cases.enlargedPieces) {
    const { starts, ends } = filterRuns(transitionsOf(decodeCounts(counts)), size, marked);

    const found = new Uint8Array(size.width * size.height);
    starts.forEach((start, i) => found.fill(1, start, ends[i]));
    const expected = new Uint8Array(size.width * size.height);
    const transitions = transitionsOf(decodeCounts(filtered));
    for (let i = 0; i < transitions.length; i += 2) expected.fill(1, transitions[i], transitions[i + 1]);
    assert.deepEqual(found, expected, JSON.stringify([size, marked]));
  }
});

test("masks are cleaned as in the service", () => {
  for (const { logits, size, prompt, box, cleaned, agrees, mask } of cases.cleanups) {
    const found = new Float32Array(bytesOf(logits));
    const completed = withBoxOfMask(prompt, found, size);
    completed.box?.forEach((side, i) => assert.ok(Math.abs(side - box[i]) < 1e-9, `${completed.box} ${box}`));
    assert.equal(completed.box === undefined, box === null);
    const cleaner = new MaskCleaner(completed, size);

    assert.equal(cleaner.agrees(found), agrees);
    const expected = new Float32Array(bytesOf(cleaned));
    cleaner.clean(found).forEach((logit, i) => assert.ok(Math.abs(logit - expected[i]) < 1e-3, `${logit} ${expected[i]}`));
    const encoded = new MaskEncoder(size).encode(expected, cleaner.markedPixels);
    if (mask.unsure === 0) assert.deepEqual(encoded, { rle: mask.rle, area: mask.area, box: mask.box });
    else assert.ok(intersectionOverUnion(encoded.rle, mask.rle) > 0.999);
  }
});

test("masks of logits have the service's pixels, area and box", () => {
  for (const { logits, size, rle, area, box, unsure } of cases.masks) {
    const found = new MaskEncoder(size).encode(new Float32Array(bytesOf(logits)));
    assert.deepEqual(found.rle.size, rle.size);
    if (unsure === 0) {
      assert.deepEqual(found, { rle, area, box });
    } else {
      // Pixels whose logit is 0 but for rounding may fall to either side.
      const most = intersectionOverUnion(found.rle, rle) * Math.max(area, found.area);
      assert.ok(Math.max(area, found.area) - most <= unsure, `${size.width} × ${size.height}`);
    }
  }
});

test("run lengths are written as pycocotools writes them", () => {
  for (const { counts } of cases.masks.map(({ rle }) => rle)) {
    assert.equal(encodeCounts(decodeCounts(counts)), counts);
  }
});

test("two masks agree by the pixels that they share", () => {
  for (const { one, other, agreement } of cases.pairs) {
    assert.ok(Math.abs(intersectionOverUnion(one, other) - agreement) < 1e-12);
  }
});
