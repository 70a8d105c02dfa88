/**
 * What `sippet bench` runs in its page: opens one engine with one model, and completes prompts with it.
 *
 * A driver is a module with `open(options)`, which resolves to `{threads, complete}`: how many threads compute, and a
 * function from a request in the driver's own form to `{prompt_n, prompt_ms, predicted_n, predicted_ms}`.
 */

const DRIVERS = {
  sippet: () => import("./sippet.mjs"),
  wllama: () => import("./wllama.mjs"),
  wllama2: () => import("./wllama2.mjs"),
  transformers: () => import("./transformers.mjs"),
};

let engine;

/**
 * @param {{driver: string, threads: number, context: number, model: {url: string, name: string}}} options and the
 *   driver's own
 * @returns {Promise<{ms: number, threads: number}>} what it took until prompts can be computed
 */
export async function open(options) {
  const started = performance.now();
  const driver = await DRIVERS[options.driver]();
  engine = await driver.open({...options, assets: new URL("../../", import.meta.url).href});
  return {ms: performance.now() - started, threads: engine.threads};
}

export function complete(request) {
  return engine.complete(request);
}
