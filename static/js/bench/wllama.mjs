/** wllama's module as Sippet ships it, in Sippet's engine worker. Python encoded its frames. */

import {installedFile} from "./files.mjs";
import {startWorker} from "./line.mjs";

export async function open({assets, threads, model, load, poll, requestIdAt, pollIdAt, moreAt, emptyAt}) {
  const {ask, stream} = startWorker();
  const folder = `${assets}vendor/wllama/`;
  await ask({
    op: "open", engine: "wllama", moduleUrl: `${folder}wllama.mjs`, wasmUrl: `${folder}wllama.wasm`,
    pthreadUrl: `${folder}wllama.pthread.js`, memory64: true, threads, suspend: false, gpu: false,
    files: [{name: model.name, handle: await installedFile(model)}],
  });
  await ask({op: "call", name: "load", data: new Uint8Array(load)});
  return {
    threads,
    async complete(frame) {
      const {data} = await ask({op: "call", name: "completion", data: new Uint8Array(frame)});
      const next = new Uint8Array(poll);
      next.set(data.subarray(requestIdAt, requestIdAt + 4), pollIdAt);
      let timings;
      await stream({next, moreAt, emptyAt}, (reply) => {
        const content = JSON.parse(new TextDecoder().decode(reply.data.subarray(emptyAt + 4)) || "[]") ?? [];
        for (const chunk of [content].flat()) {
          if (chunk.error || chunk.code) throw new Error(JSON.stringify(chunk));
          timings = chunk.timings ?? timings;
        }
      });
      return timings;
    },
  };
}
