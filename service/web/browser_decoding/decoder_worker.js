/**
 * The worker that decodes in the browser.
 *
 * It gets messages `{id, kind, …}`, one at a time, and answers each with `{id, result}` or `{id, error}`.
 */

import { Decoder } from "./decoder.js";

const RUNTIME = new URL("../runtime/ort.wasm.bundle.min.mjs", import.meta.url).href;
const WASM = new URL("../runtime/ort-wasm-simd-threaded.wasm", import.meta.url).href;

let decoder = /** @type {Decoder | null} */ (null);

const HANDLERS = {
  load: async ({ graphs, rules }) => {
    const runtime = await import(RUNTIME);
    // One thread: several need a cross-origin isolated page in a secure context. See
    // docs/decisions/0038-browser-decoding-single-thread.md.
    Object.assign(runtime.env.wasm, { numThreads: 1, wasmPaths: { wasm: WASM } });
    decoder = await Decoder.load(runtime, graphs, rules);
  },
  open: ({ tokens, size }) => decoder.open(tokens, size),
  decode: ({ prompt, multimask, cleanup }) => decoder.decode(prompt, multimask, cleanup),
};

addEventListener("message", async ({ data: { id, kind, ...rest } }) => {
  try {
    postMessage({ id, result: await HANDLERS[kind](rest) });
  } catch (error) {
    postMessage({ id, error: String(error?.message ?? error) });
  }
});
