/**
 * The worker that decodes in the browser. Messages are `{id, kind, …}` and come one at a time; the answer to each has
 * its id, and a `result` or an `error`.
 */

import { Decoder } from "./decoder.js";

const RUNTIME = new URL("../runtime/ort.wasm.bundle.min.mjs", import.meta.url).href;
const WASM = new URL("../runtime/ort-wasm-simd-threaded.wasm", import.meta.url).href;

let decoder = /** @type {Decoder | null} */ (null);

const DOINGS = {
  load: async ({ graphs, ranking }) => {
    const runtime = await import(RUNTIME);
    // One thread: more need a page that is isolated from all others, and a secure context. See
    // docs/decisions/0038-browser-decoding-single-thread.md.
    Object.assign(runtime.env.wasm, { numThreads: 1, wasmPaths: { wasm: WASM } });
    decoder = await Decoder.load(runtime, graphs, ranking);
  },
  open: ({ tokens, size }) => decoder.open(tokens, size),
  answer: ({ prompt, multimask }) => decoder.answer(prompt, multimask),
};

addEventListener("message", async ({ data: { id, kind, ...rest } }) => {
  try {
    postMessage({ id, result: await DOINGS[kind](rest) });
  } catch (error) {
    postMessage({ id, error: String(error?.message ?? error) });
  }
});
