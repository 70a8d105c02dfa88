/** Sippet's own build of llama.cpp behind an engine host: requests and chunks are llama-server's JSON, as text. */

import {openFile} from "./engine_files.mjs";
import {makeWorker} from "./workers.mjs";

/**
 * @param {object} options
 * @param {string} options.moduleUrl its JavaScript host
 * @param {Promise<WebAssembly.Module>} options.compiled its WASM file
 * @param {string} options.pthreadUrl the script of its threads
 * @param {number} options.threads
 * @param {boolean} options.suspend read files asynchronously, through JSPI: for threads that can't read synchronously
 * @param {{name: string, blob?: Blob, handle?: FileSystemFileHandle}[]} options.files
 */
export async function openSippet(options) {
  const {openEngine} = await import(options.moduleUrl);
  const files = await Promise.all(options.files.map(openFile));
  const engine = await openEngine({
    module: await options.compiled,
    threads: options.threads,
    threadUrl: options.pthreadUrl,
    createWorker: makeWorker,
    asyncRead: options.suspend,
    files: files.map(({name, size, read, readAsync}) => ({
      name,
      size,
      read: options.suspend ? (offset, into) => readAsync(offset, () => into) : read,
    })),
  });
  const operations = {
    load: (config) => engine.load(config),
    tokenize: (body) => engine.tokenize(body),
    detokenize: (body) => engine.detokenize(body),
    template: (body) => engine.applyTemplate(body),
    slotSave: ({slot}) => engine.slotSave(slot),
    slotRestore: ({slot}, bytes) => engine.slotRestore(slot, bytes),
  };
  let crash = null;
  return {
    threads: engine.threads,
    raw: engine,
    /**
     * @param {string} name
     * @param {string} text a JSON document
     * @param {Uint8Array} [bytes] what goes with it
     * @returns {Promise<string | Uint8Array>}
     */
    async call(name, text, bytes) {
      const result = await this.guard(() => operations[name](JSON.parse(text), bytes));
      return result instanceof Uint8Array ? result : JSON.stringify(result);
    },
    async guard(work) {
      try {
        return await work();
      } catch (error) {
        if (error.code === "engine_failed") crash = error.message;
        error.log = engine.recentLog();
        throw error;
      }
    },
    memoryBytes: () => engine.memoryBytes(),
    crashed: () => crash,
    log: () => engine.recentLog(),
    close() {
      engine.close();
      for (const file of files) file.close();
    },
  };
}

/** Requests under way. All of them advance together: one step computes one micro-batch for every slot. */
export class SippetStreams {
  constructor(engine) {
    this.engine = engine;
    this.requests = new Map(); // the host's id → the engine's number
  }

  active() {
    return this.requests.size > 0;
  }

  /**
   * @param {number} id
   * @param {{kind: string, data: string, media?: Uint8Array[]}} request
   */
  async add(id, {kind, data, media = []}) {
    this.requests.set(id, await this.engine.guard(() => this.engine.raw.submit(kind, data, media)));
  }

  async advance(reply, fail) {
    try {
      await this.engine.guard(() => this.engine.raw.step());
    } catch (error) {
      for (const id of this.requests.keys()) fail(id, error);
      this.requests.clear();
      return;
    }
    for (const [id, number] of [...this.requests]) {
      const {state, chunks, error} = this.engine.raw.result(number);
      if (state !== "more") this.requests.delete(id);
      if (error) fail(id, Object.assign(new Error(error.message), {code: error.code, fields: error}));
      else if (chunks.length || state === "done") reply({id, data: JSON.stringify(chunks), last: state === "done"});
    }
  }

  async cancel(id) {
    const number = this.requests.get(id);
    if (number === undefined) return;
    this.requests.delete(id);
    await this.engine.guard(() => this.engine.raw.cancel(number));
  }
}
