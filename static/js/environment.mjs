/** What this browser and this thread can do; the facts that sippet's Python `Environment` carries. */

import {largestMemory} from "../engine/sippet_memory.mjs";

// A function that returns a v128 made with i8x16.splat; the second one also uses i8x16.relaxed_swizzle.
const SIMD = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
];
const RELAXED_SIMD = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15,
  253, 128, 2, 11,
];

const valid = (bytes) => typeof WebAssembly === "object" && WebAssembly.validate(new Uint8Array(bytes));

function works(attempt) {
  try {
    return Boolean(attempt());
  } catch {
    return false;
  }
}

const GPU_ANSWER = 10_000; // milliseconds; a stuck driver must not hold up everything else

/** Whether llama.cpp could compute on a GPU here: it needs half-precision shaders, and without them uses the CPU. */
async function hasGpu() {
  try {
    const late = new Promise((resolve) => setTimeout(resolve, GPU_ANSWER, null));
    const adapter = await Promise.race([globalThis.navigator?.gpu?.requestAdapter(), late]);
    return Boolean(adapter?.features.has("shader-f16"));
  } catch {
    return false;
  }
}

/**
 * The build of our engine that Python's `plan()` (sippet/engines/wasm.py) chooses where nothing special is asked for.
 * @param {boolean} threads whether threads are wanted
 */
export function likelyBuild(threads) {
  const {isolated, shared_memory: shared, relaxed_simd: relaxed, cores} = here();
  const threaded = threads && isolated && shared && cores > 1;
  return `sippet-${threaded ? "pthread" : "single"}-${relaxed ? "relaxed" : "simd128"}`;
}

/** What can be told at once. */
function here() {
  const {hardwareConcurrency = 1, deviceMemory} = globalThis.navigator ?? {};
  return {
    name: "browser",
    isolated: Boolean(globalThis.crossOriginIsolated),
    // Both are asked: some browsers isolate a page and still have no SharedArrayBuffer.
    shared_memory:
      typeof SharedArrayBuffer === "function" &&
      works(() => new WebAssembly.Memory({initial: 1, maximum: 1, shared: true})),
    ui_thread: typeof document !== "undefined",
    simd: valid(SIMD),
    relaxed_simd: valid(RELAXED_SIMD),
    memory64: works(() => new WebAssembly.Memory({initial: 1n, maximum: 1n, address: "i64"})),
    suspending: typeof WebAssembly === "object" && typeof WebAssembly.Suspending === "function",
    cores: hardwareConcurrency,
    device_memory: deviceMemory ? deviceMemory * 2 ** 30 : null,
  };
}

/** @returns {Promise<object>} see `sippet.platform.Environment` */
export async function environment() {
  const facts = here();
  // Not at every look: each reserves gigabytes of addresses, until they are collected.
  const wasmMemory = largestMemory(1, facts.shared_memory)?.limit ?? null;
  return {...facts, wasm_memory: wasmMemory, gpu: await hasGpu()};
}
