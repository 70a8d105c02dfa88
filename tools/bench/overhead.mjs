/** The two ways of driving one engine build that overhead.py compares. */

import {SippClient} from "../js/sippet.mjs";
import {trustedWorker} from "../js/trusted.mjs";

export async function open(options) {
  const model = await (await fetch(options.model)).blob();
  const client = new SippClient();
  const context = {nCtx: 1024, nThreads: options.threads};
  await client.add("model", {source: options.model, runtime: {context}});
  const engine = await openEngine(options, model);
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

/** The engine worker with no Python: frames that Python encoded once are sent as they are. */
async function openEngine(options, model) {
  const worker = trustedWorker(new URL("../js/engine_worker.mjs", import.meta.url), {type: "module"});
  const vendor = new URL("../vendor/wllama/", import.meta.url).href;
  let lastId = 0;
  const listeners = new Map();
  worker.onmessage = ({data}) => listeners.get(data.id)?.(data);
  const send = (message, listener) => {
    const id = ++lastId;
    listeners.set(id, listener);
    worker.postMessage({...message, id});
  };
  const ask = (message) =>
    new Promise((resolve, reject) =>
      send(message, (reply) => (reply.error ? reject(new Error(reply.error.message)) : resolve(reply))),
    );
  await ask({
    op: "open", engine: "wllama", moduleUrl: `${vendor}wllama.mjs`, wasmUrl: `${vendor}wllama.wasm`,
    pthreadUrl: `${vendor}wllama.pthread.js`, memory64: true, threads: options.threads, suspend: false, gpu: false,
    files: [{name: "model.gguf", blob: model}],
  });
  await ask({op: "call", name: "load", data: new Uint8Array(options.load)});
  return async (onToken) => {
    const {data} = await ask({op: "call", name: "completion", data: new Uint8Array(options.request)});
    const next = new Uint8Array(options.poll);
    next.set(data.subarray(options.requestIdAt, options.requestIdAt + 4), options.pollIdAt);
    await new Promise((resolve, reject) =>
      send({op: "stream", next, moreAt: options.moreAt, emptyAt: options.emptyAt}, (reply) => {
        if (reply.error) reject(new Error(reply.error.message));
        else if (reply.last) resolve();
        else onToken(JSON.parse(new TextDecoder().decode(reply.data.subarray(options.emptyAt + 4))));
      }),
    );
  };
}
