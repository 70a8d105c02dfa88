/** transformers.js on ONNX Runtime's WebAssembly, which has no timings: the clock is the page's. */

export async function open({base, threads, weights}) {
  const {AutoModelForCausalLM, Tensor, env} = await import(`${base}transformers.min.js`);
  const file = (kind) => new URL(`${base}ort-wasm-simd-threaded.asyncify.${kind}`, location.href).href;
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = weights.base;
  env.backends.onnx.wasm.wasmPaths = {mjs: file("mjs"), wasm: file("wasm")};
  env.backends.onnx.wasm.numThreads = threads;
  const model = await AutoModelForCausalLM.from_pretrained(weights.name, {device: "wasm", dtype: "fp32"});
  return {
    threads,
    async complete({prompt, tokens}) {
      const shape = [1, prompt.length];
      const inputs = {
        input_ids: new Tensor("int64", BigInt64Array.from(prompt, BigInt), shape),
        attention_mask: new Tensor("int64", new BigInt64Array(prompt.length).fill(1n), shape),
      };
      const times = []; // of the prompt's arrival, and of each token
      const streamer = {put: () => times.push(performance.now()), end() {}};
      const start = performance.now();
      const found = await model.generate({
        ...inputs, streamer, do_sample: false, min_new_tokens: tokens, max_new_tokens: tokens, eos_token_id: null,
      });
      const [first, last] = [times[1], times.at(-1)];
      const predicted = found.dims[1] - prompt.length;
      return {prompt_n: prompt.length, prompt_ms: first - start, predicted_n: predicted, predicted_ms: last - first};
    },
  };
}
