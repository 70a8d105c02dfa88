/**
 * One thread of the pthread build: instantiates the module on the shared memory, then runs the threads it is handed.
 * @module
 */
import { WasiHost, importsFor } from './sippet_wasi.mjs';

self.onmessage = async ({ data: { module, memory, control, index } }) => {
  const wasi = new WasiHost({ files: [], asyncRead: false });
  wasi.memory = memory;
  const instance = await WebAssembly.instantiate(module, importsFor(module, wasi, { memory, thread_spawn: () => -1 }));
  const exports = /** @type {any} */ (instance.exports);
  self.postMessage('ready');
  for (;;) {
    Atomics.wait(control, index, 0);
    const block = Atomics.load(control, index) >>> 0;
    if (block === 0) continue;
    const data = new DataView(memory.buffer);
    exports.__stack_pointer.value = data.getUint32(block, true);
    exports.__wasm_init_tls(data.getUint32(block + 4, true));
    try {
      exports.sippet_thread_entry(block);
    } catch (error) {
      exports.sippet_thread_lost();
      throw error;
    }
    Atomics.store(control, index, 0);
  }
};
