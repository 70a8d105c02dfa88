/** The two ways of driving one engine build that overhead.py compares. */

import {startWorker} from "../js/bench/line.mjs";
import {likelyBuild} from "../js/environment.mjs";
import {SippClient} from "../js/sippet.mjs";

export async function open(options) {
  const model = await (await fetch(options.model)).blob();
  const client = new SippClient({engine: options.engine});
  const context = {nCtx: 1024, nThreads: options.threads};
  await client.add("model", {source: options.model, runtime: {context}});
  const engine = await (options.engine === "wllama" ? openWllama : openSippet)(options, model);
  return {
    async python() {
      const clock = new Clock();
      // max_tokens ends it: the prompt's greedy continuation has no end of text within a few hundred tokens
      const run = client.query(options.prompt, {temperature: 0, maxTokens: options.tokens, emitTokens: true});
      for await (const batch of run.tokens) clock.tick();
      return clock.perToken((await run).usage.completionTokens);
    },
    async javascript() {
      const clock = new Clock();
      await engine(() => clock.tick());
      return clock.perToken(options.tokens);
    },
  };
}

class Clock {
  tick() {
    this.last = performance.now();
    this.first ??= this.last;
  }

  /** Milliseconds per token after the first one. */
  perToken(tokens) {
    return (this.last - this.first) / (tokens - 1);
  }
}

async function openSippet({threads, load, request}, blob) {
  const {ask, stream} = startWorker();
  const engine = new URL("../engine/", import.meta.url).href;
  await ask({
    op: "open", engine: "sippet", moduleUrl: `${engine}sippet_engine.mjs`, pthreadUrl: `${engine}sippet_thread.mjs`,
    wasmUrl: `${engine}${likelyBuild(threads > 1)}.wasm`, threads, suspend: false, files: [{name: "model.gguf", blob}],
  });
  await ask({op: "call", name: "load", data: load});
  return (onToken) =>
    stream({kind: "completion", data: request}, ({data, last}) => last || JSON.parse(data).forEach(onToken));
}

/** Frames that Python encoded once are sent as they are. */
async function openWllama({threads, load, request, poll, requestIdAt, pollIdAt, moreAt, emptyAt}, blob) {
  const {ask, stream} = startWorker();
  const vendor = new URL("../vendor/wllama/", import.meta.url).href;
  await ask({
    op: "open", engine: "wllama", moduleUrl: `${vendor}wllama.mjs`, wasmUrl: `${vendor}wllama.wasm`,
    pthreadUrl: `${vendor}wllama.pthread.js`, memory64: true, threads, suspend: false, gpu: false,
    files: [{name: "model.gguf", blob}],
  });
  await ask({op: "call", name: "load", data: new Uint8Array(load)});
  return async (onToken) => {
    const {data} = await ask({op: "call", name: "completion", data: new Uint8Array(request)});
    const next = new Uint8Array(poll);
    next.set(data.subarray(requestIdAt, requestIdAt + 4), pollIdAt);
    await stream({next, moreAt, emptyAt}, ({data: chunk, last}) =>
      last || onToken(JSON.parse(new TextDecoder().decode(chunk.subarray(emptyAt + 4)))),
    );
  };
}
