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
  load: async ({ graphs, rules, threads }) => {
    if (threads > 1) allowThreads();
    const runtime = await import(RUNTIME);
    Object.assign(runtime.env.wasm, { numThreads: threads, wasmPaths: { wasm: WASM } });
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

/**
 * Let the runtime start its threads, which are workers whose script is the runtime itself. It gives their address as a
 * string, so only the policy named "default" can allow it. That policy refuses every other address.
 */
function allowThreads() {
  globalThis.trustedTypes?.createPolicy("default", { createScriptURL: (url) => (url === RUNTIME ? url : null) });
}
