// Runs the engine for a test. Every call answers with its value or its error's code and message.
import { chooseVariant, openEngine } from '/engine/sippet_engine.mjs';
import { WasiHost, importsFor } from '/engine/sippet_wasi.mjs';

let current;

async function fileOf({ name, url, size, brokenAt }) {
  const data = new Uint8Array(await (await fetch(url)).arrayBuffer());
  const read = (offset, destination) => {
    if (brokenAt !== undefined && offset >= brokenAt) throw new Error('the disk is gone');
    const part = data.subarray(offset, offset + destination.length);
    destination.set(part);
    return part.length;
  };
  return { name, size: size ?? data.length, read };
}

function drive(ids, chunkLimit = Infinity) {
  const results = Object.fromEntries(ids.map((id) => [id, { state: 'more', chunks: [] }]));
  let total = 0;
  while (Object.values(results).some((result) => result.state === 'more') && total < chunkLimit) {
    current.step();
    for (const id of ids) {
      if (results[id].state !== 'more') continue;
      const { state, chunks, error } = current.result(id);
      total += chunks.length;
      results[id] = { state, error, chunks: [...results[id].chunks, ...chunks] };
    }
  }
  return results;
}

const calls = {
  variant: (threads) => chooseVariant(threads),
  async open({ file, threads = 1, files = [] }) {
    current = await openEngine({ wasmUrl: `/engine/${file}`, threads, files: await Promise.all(files.map(fileOf)) });
    return current.threads;
  },
  call: (name, ...args) => current[name](...args),
  run: (kind, body, media) => {
    const id = current.submit(kind, body, media?.map((numbers) => new Uint8Array(numbers)));
    return drive([id])[id];
  },
  runMany: (bodies) => {
    const ids = bodies.map((body) => current.submit('chat', body));
    return Object.values(drive(ids));
  },
  runPart: (kind, body, chunks) => {
    const id = current.submit(kind, body);
    return { id, ...drive([id], chunks)[id] };
  },
  saveAndRestore: (from, to) => {
    const bytes = current.slotSave(from);
    return { bytes: bytes.length, ...current.slotRestore(to, bytes) };
  },
  async selfTest({ file, cases }) {
    const module = await WebAssembly.compileStreaming(fetch(`/engine/${file}`));
    const wasi = new WasiHost({ files: [], asyncRead: false });
    const { exports } = await WebAssembly.instantiate(module, importsFor(module, wasi, { thread_spawn: () => -1 }));
    wasi.memory = exports.memory;
    exports.__wasm_call_ctors();
    return cases.map(({ name, args }) => exports[`sippet_self_test_${name}`](...args));
  },
};

self.onmessage = async ({ data: { id, name, args } }) => {
  try {
    self.postMessage({ id, value: await calls[name](...args) });
  } catch (error) {
    self.postMessage({ id, error: { code: error.code ?? error.name, message: error.message } });
  }
};
