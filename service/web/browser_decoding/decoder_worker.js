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
    const failure = threads > 1 ? threadFailure() : null;
    const runtime = await import(RUNTIME);
    Object.assign(runtime.env.wasm, { numThreads: threads, wasmPaths: { wasm: WASM } });
    const loading = Decoder.load(runtime, graphs, rules);
    decoder = await (failure ? Promise.race([loading, failure]) : loading);
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
 * Let the runtime start its threads, which are workers whose script is the runtime itself.
 *
 * The runtime gives their address as a string, which Trusted Types refuse, and waits for ever for a thread whose script
 * was refused. So its `Worker` is replaced by one that takes the address from a policy, and reports such a thread.
 *
 * @returns {Promise<never>} rejected when a thread does not start
 */
function threadFailure() {
  const policy = globalThis.trustedTypes?.createPolicy("edgesam-threads", { createScriptURL: () => RUNTIME });
  const address = /** @type {any} */ (policy ? policy.createScriptURL("") : RUNTIME);
  return new Promise((_, reject) => {
    globalThis.Worker = class extends Worker {
      /** @param {string | URL} _address @param {WorkerOptions} [options] */
      constructor(_address, options) {
        super(address, options);
        this.addEventListener("error", () => reject(new Error("A thread did not start.")));
      }
    };
  });
}
