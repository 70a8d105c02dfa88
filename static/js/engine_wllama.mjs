/**
 * wllama's WebAssembly module without wllama's JavaScript class: it is given frames of its own message protocol, which
 * Python encodes and decodes, and gives frames back. No `blob:` URL and no `eval` is involved.
 */

import {openFile} from "./engine_files.mjs";
import {makeWorker} from "./workers.mjs";

const PAGE = 65536; // bytes of a WebAssembly page
const MAX_PAGES = 65536; // 4 GiB, the maximum that the module was linked with
const INITIAL_PAGES = 2048; // 128 MiB, its minimum
const LOG_LINES = 200;

/**
 * @param {object} options
 * @param {string} options.moduleUrl the ES module around emscripten's glue
 * @param {Promise<WebAssembly.Module>} options.compiled its WASM file
 * @param {string} options.pthreadUrl script of its pthread workers
 * @param {boolean} options.memory64 whether the module has 64-bit addresses
 * @param {number} options.threads
 * @param {boolean} options.suspend read files asynchronously, through JSPI: for threads that can't read synchronously
 * @param {boolean} options.gpu let the module see `navigator.gpu`
 * @param {{name: string, blob?: Blob, handle?: FileSystemFileHandle}[]} options.files
 */
export async function openWllama(options) {
  const {default: createModule} = await import(options.moduleUrl);
  const files = new Map();
  for (const file of options.files) files.set(file.name, await openFile(file));

  const log = [];
  const note = (line) => {
    log.push(String(line));
    if (log.length > LOG_LINES) log.shift();
  };
  const size = options.memory64 ? BigInt : Number;
  const threaded = options.threads > 1;
  let aborted = null;
  let module;
  const heap = () => new Uint8Array(module.wasmMemory.buffer);

  await new Promise((resolve, reject) => {
    module = {
      noInitialRun: true,
      print: note,
      printErr: note,
      instantiateWasm(imports, done) {
        options.compiled
          .then(async (compiled) => done(await WebAssembly.instantiate(compiled, imports), compiled))
          .catch(reject);
        return {}; // emscripten's sign for "it comes later"
      },
      mainScriptUrlOrBlob: options.pthreadUrl,
      pthreadPoolSize: threaded ? options.threads : 0,
      preRun: () => {
        if (options.suspend) module.ENV.USE_ASYNC_FILE = "1";
      },
      onRuntimeInitialized: resolve,
      onAbort: (why) => {
        aborted = String(why);
        reject(new Error(aborted));
      },
    };
    if (threaded) {
      const address = options.memory64 ? {address: "i64"} : {};
      module.wasmMemory = new WebAssembly.Memory({
        initial: size(INITIAL_PAGES), maximum: size(MAX_PAGES), shared: true, ...address,
      });
    }
    createModule(module, {
      WebAssembly: options.suspend ? WebAssembly : withoutSuspending(),
      navigator: visibleNavigator(options.gpu),
      Worker: makeWorker,
      _wllama_js_file_read: async (path, offset, length, pointer) => {
        const file = files.get(path.replace(/^\/?models\//, ""));
        return size(await file.readAsync(offset, () => heap().subarray(pointer, pointer + length)));
      },
    });
  });

  module.FS.mkdir("/models");
  for (const file of files.values()) mount(module, file, heap);

  const pointer = options.memory64 ? "bigint" : "number";
  const flags = options.suspend ? {async: true} : undefined;
  const malloc = module.cwrap("wllama_malloc", pointer, ["number", pointer]);
  const action = module.cwrap("wllama_action", pointer, ["string", pointer], flags);
  await module.cwrap("wllama_start", "string", [], flags)();

  return {
    /**
     * Run one action.
     * @param {string} name
     * @param {Uint8Array} frame the request
     * @returns {Promise<Uint8Array>} the reply's frame, a copy
     */
    async call(name, frame) {
      if (aborted) throw new Error(aborted);
      const request = malloc(size(frame.length), 0);
      heap().set(frame, Number(request));
      log.length = 0;
      const reply = Number(await action(name, request));
      if (!reply) throw new EngineCallError(`the engine refused ${name}`, log);
      // The reply's length is written over the first four bytes of the request.
      const length = new DataView(heap().buffer).getUint32(Number(request), true);
      return heap().slice(reply, reply + length);
    },
    threads: threaded ? options.threads : 1,
    memoryBytes: () => heap().length,
    crashed: () => aborted,
    log: () => log.slice(),
    close() {
      module.PThread?.terminateAllThreads();
      for (const file of files.values()) file.close();
    },
  };
}

/** The module reported a failure; its reason is only in the log. */
export class EngineCallError extends Error {
  constructor(message, log) {
    super(message);
    this.log = log.slice();
  }
}

/** Make a file appear in the module's file system; reads go straight into WebAssembly memory. */
function mount(module, file, heap) {
  module.FS.writeFile(`/models/${file.name}`, new Uint8Array(0));
  const {node} = module.FS.lookupPath(`/models/${file.name}`);
  node.usedBytes = file.size;
  node.stream_ops = {
    ...module.MEMFS.stream_ops,
    read: (stream, buffer, offset, length, position) =>
      buffer.buffer === heap().buffer
        ? file.read(position, heap().subarray(offset, offset + length))
        : file.read(position, buffer.subarray(offset, offset + length)),
    llseek(stream, offset, whence) {
      const base = whence === 1 ? stream.position : whence === 2 ? file.size : 0;
      if (base + offset < 0) throw new module.FS.ErrnoError(28); // EINVAL
      return base + offset;
    },
  };
}

/** WebAssembly as the glue sees it where nothing needs to suspend: exports become plain synchronous functions. */
function withoutSuspending() {
  const replaced = {
    Suspending: class { constructor(f) { return f; } },
    promising: (f) => f,
  };
  return new Proxy(WebAssembly, {get: (target, key) => replaced[key] ?? target[key]});
}

/** The module takes a GPU whenever `navigator` has the key, even where its value is undefined: leave it out. */
function visibleNavigator(gpu) {
  const {hardwareConcurrency, userAgent, language, languages} = navigator;
  const visible = {hardwareConcurrency, userAgent, language, languages};
  return gpu && navigator.gpu ? {...visible, gpu: navigator.gpu} : visible;
}
