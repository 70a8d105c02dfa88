/** wllama 2.4.0 through its own class, which has no timings: the clock is the page's. */

import {installedFile} from "./files.mjs";

export async function open({base, threads, context, model}) {
  const {Wllama} = await import(`${base}index.js`);
  const file = (kind) => new URL(`${base}${kind}-thread/wllama.wasm`, location.href).href;
  const paths = {"single-thread/wllama.wasm": file("single")};
  if (threads > 1) paths["multi-thread/wllama.wasm"] = file("multi");
  const wllama = new Wllama(paths, {suppressNativeLog: true});
  const blob = await (await installedFile(model)).getFile();
  await wllama.loadModel([blob], {n_ctx: context, n_threads: threads});
  return {
    threads: wllama.isMultithread() ? wllama.getNumThreads() : 1,
    async complete({prompt, tokens}) {
      await wllama.kvClear();
      await wllama.samplingInit({temp: 0});
      const start = performance.now();
      await wllama.decode(prompt, {});
      let {token} = await wllama.samplingSample();
      const first = performance.now();
      for (let done = 1; done < tokens; done++) {
        await wllama.samplingAccept([token]);
        await wllama.decode([token], {});
        ({token} = await wllama.samplingSample());
      }
      const last = performance.now();
      return {prompt_n: prompt.length, prompt_ms: first - start, predicted_n: tokens, predicted_ms: last - first};
    },
  };
}
