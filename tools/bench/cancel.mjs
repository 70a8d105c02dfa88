/** The three moments at which cancel.py starts a request: an idle engine, one that decodes, one that prefills. */

import {SippClient} from "../js/sippet.mjs";

const SHORT = "Hello there";
const GREEDY = {temperature: 0, emitTokens: true};

export async function open({model, threads, words}) {
  const client = new SippClient();
  const runtime = {context: {nCtx: 2048, nThreads: threads}, cache: {promptCache: false}};
  await client.add("model", {source: model, runtime});
  const long = Array.from({length: words}, (_, index) => `The number ${index} is a number.`).join(" ");

  /** A short request from this moment on: its text's delay, and what of it was not computing. */
  const next = async () => {
    const start = performance.now();
    const run = client.query(SHORT, {...GREEDY, maxTokens: 2});
    let first;
    for await (const batch of run.tokens) first ??= performance.now() - start;
    return {first, wait: first - (await run).timings.prefillMs};
  };

  /** Cancel `run` and ask at once for the next. */
  const replace = async (run) => {
    run.cancel("measured");
    const found = await next();
    const {finishReason, usage, text} = await run;
    if (finishReason !== "cancelled") throw new Error(`the run had ended: ${finishReason}`);
    return {...found, tokens: usage.completionTokens, text: text.length};
  };

  return {
    idle: next,
    async prefill() {
      const {timings, usage} = await client.query(long, {...GREEDY, maxTokens: 1});
      return {ms: timings.prefillMs, tokens: usage.promptTokens};
    },
    async duringDecode(pieces) {
      const run = client.query(SHORT, {...GREEDY, maxTokens: 1500, ignoreEos: true});
      for await (const batch of run.tokens) if ((pieces -= 1) <= 0) return replace(run);
    },
    async duringPrefill(ms) {
      const began = new Promise((resolve) => {
        const end = client.subscribe(({type}) => type === "request_started" && (end(), resolve()));
      });
      const run = client.query(long, {...GREEDY, maxTokens: 500, ignoreEos: true});
      await began;
      await new Promise((resolve) => setTimeout(resolve, ms));
      return replace(run);
    },
  };
}
