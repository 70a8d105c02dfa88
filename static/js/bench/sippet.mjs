/** One of Sippet's own builds, in the engine worker that every page of Sippet uses. */

import {installedFile} from "./files.mjs";
import {startWorker} from "./line.mjs";

export async function open({assets, build, threads, context, model}) {
  const {ask, stream} = startWorker();
  const folder = `${assets}engine/`;
  const {opened} = await ask({
    op: "open", engine: "sippet", moduleUrl: `${folder}sippet_engine.mjs`, pthreadUrl: `${folder}sippet_thread.mjs`,
    wasmUrl: `${folder}${build}.wasm`, threads, suspend: false,
    files: [{name: model.name, handle: await installedFile(model)}],
  });
  await ask({op: "call", name: "load", data: JSON.stringify({model: model.name, n_ctx: context})});
  return {
    threads: opened.threads,
    async complete(request) {
      let timings;
      await stream({kind: "completion", data: request}, ({data}) => {
        for (const chunk of JSON.parse(data)) timings = chunk.timings ?? timings;
      });
      return timings;
    },
  };
}
