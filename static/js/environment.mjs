/** What this browser and this thread can do; the facts that sippet's Python `Environment` carries. */

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

/** Whether llama.cpp could compute on a GPU here: it needs half-precision shaders, and without them uses the CPU. */
async function hasGpu() {
  try {
    const adapter = await globalThis.navigator?.gpu?.requestAdapter();
    return Boolean(adapter?.features.has("shader-f16"));
  } catch {
    return false;
  }
}

/** The build of our engine that Python's plan will choose in an ordinary page. @param {boolean} threads */
export function likelyBuild(threads) {
  const threaded = threads && globalThis.crossOriginIsolated && typeof SharedArrayBuffer === "function";
  return `sippet-${threaded ? "pthread" : "single"}-${valid(RELAXED_SIMD) ? "relaxed" : "simd128"}`;
}

/** @returns {Promise<object>} see `sippet.platform.Environment` */
export async function environment() {
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
    gpu: await hasGpu(),
    cores: hardwareConcurrency,
    device_memory: deviceMemory ? deviceMemory * 2 ** 30 : null,
  };
}
