/**
 * Host of Sippet's own llama.cpp WebAssembly builds: loads one, gives it files, and drives it step by step.
 * Works in any realm (worker or window) with no eval, no blob: and no bundler; browser_runtime/engine/README.md documents it.
 * @module
 */
import { largestMemory } from './sippet_memory.mjs';
import { WasiHost, importsFor } from './sippet_wasi.mjs';

/** Pages of 64 KiB that the linker gives the pthread build's memory at first; its provenance file repeats the number. */
const INITIAL_PAGES = 512;
const WORKER_START_MS = 15000;
const KINDS = { completion: 0, chat: 1, embedding: 2, rerank: 3 };

/** (func (result v128) v128.const 0, v128.const 0, v128.const 0, i32x4.relaxed_dot_i8x16_i7x16_add_s) */
const RELAXED_SIMD_PROBE = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 19, 1, 17, 0,
  65, 0, 253, 15, 65, 0, 253, 15, 65, 0, 253, 15, 253, 147, 2, 11,
]);

/** An error of the engine: `code` is stable, `message` says what to do. */
export class EngineError extends Error {
  /** @param {string} code @param {string} message @param {unknown} [cause] */
  constructor(code, message, cause) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'EngineError';
    this.code = code;
  }
}

/**
 * Which of the four builds suits this realm.
 * @param {number} threads how many threads the caller wants
 * @returns {{threading: 'single' | 'pthread', simd: 'simd128' | 'relaxed', file: string}}
 */
export function chooseVariant(threads) {
  const shared = typeof SharedArrayBuffer === 'function' && globalThis.crossOriginIsolated !== false;
  const threading = threads > 1 && shared ? 'pthread' : 'single';
  const simd = WebAssembly.validate(RELAXED_SIMD_PROBE) ? 'relaxed' : 'simd128';
  return { threading, simd, file: `sippet-${threading}-${simd}.wasm` };
}

/**
 * Load an engine module and start its threads. No model is loaded yet.
 * @param {object} options
 * @param {string | URL} [options.wasmUrl] address of one of the builds
 * @param {WebAssembly.Module} [options.module] the compiled build, instead of `wasmUrl`
 * @param {number} [options.threads] threads for the pthread build, this one included; the single-thread build ignores it
 * @param {Array<import('./sippet_wasi.mjs').HostFile>} [options.files] what load() may open, by name
 * @param {(line: string) => void} [options.log] receives every line that the engine logs
 * @param {boolean} [options.asyncRead] files have asynchronous `read`s: needs JSPI, and makes load() asynchronous
 * @param {string | URL} [options.threadUrl] same-origin address of sippet_thread.mjs
 * @param {(url: string | URL, options: WorkerOptions) => Worker} [options.createWorker] makes a thread's worker, for pages with
 *   Trusted Types; default `new Worker`
 * @returns {Promise<Engine>}
 */
export async function openEngine(options) {
  const module = options.module ?? (await compile(options.wasmUrl));
  const wantsMemory = WebAssembly.Module.imports(module).some((entry) => entry.kind === 'memory');
  if (options.asyncRead && typeof (/** @type {any} */ (WebAssembly).Suspending) !== 'function') {
    throw new EngineError('unsupported', 'asynchronous file reads need JavaScript Promise Integration, which this browser lacks');
  }
  const memory = wantsMemory ? sharedMemory() : undefined;
  const pool = new ThreadPool(options.createWorker ?? ((url, settings) => new Worker(url, settings)));
  const wasi = new WasiHost({ files: options.files ?? [], log: options.log, asyncRead: options.asyncRead === true });
  const imports = importsFor(module, wasi, { memory, thread_spawn: (block) => pool.spawn(block) });
  const instance = await WebAssembly.instantiate(module, imports);
  const exports = /** @type {any} */ (instance.exports);
  wasi.memory = memory ?? exports.memory;
  const isWindow = typeof document !== 'undefined';
  exports.sippet_set_main_may_block?.(isWindow ? 0 : 1);
  if (memory) exports.sippet_set_tls_layout(exports.__tls_size.value, exports.__tls_align.value);
  exports.__wasm_call_ctors();
  let threads = 1;
  if (memory && (options.threads ?? 1) > 1) {
    const url = options.threadUrl ?? new URL('./sippet_thread.mjs', import.meta.url);
    threads += await pool.start(url, module, memory, (options.threads ?? 1) - 1);
  }
  return new Engine(exports, wasi, pool, threads, options.asyncRead === true);
}

/** One engine instance. All methods are synchronous, except load() when opened with `asyncRead`. */
export class Engine {
  #exports;
  #wasi;
  #pool;
  #asyncRead;
  #dead = /** @type {EngineError | null} */ (null);

  /** @param {any} exports @param {WasiHost} wasi @param {ThreadPool} pool @param {number} threads @param {boolean} asyncRead */
  constructor(exports, wasi, pool, threads, asyncRead) {
    this.#exports = exports;
    this.#wasi = wasi;
    this.#pool = pool;
    this.#asyncRead = asyncRead;
    /** Threads that really started, this one included. */
    this.threads = threads;
  }

  /**
   * Load a model; `config` is {model: name of a file, ...options of the engine's README}.
   * @param {Record<string, unknown>} config
   * @returns {any} the model's info; a promise of it when opened with `asyncRead`
   */
  load(config) {
    const text = JSON.stringify({ ...config, threads: this.threads });
    if (!this.#asyncRead) return this.#withBytes(text, (at, size) => this.#call('sippet_load', [at, size], true));
    return this.#loadAsync(text);
  }

  /** What was loaded: sizes, capabilities and the GGUF metadata. */
  info() {
    return this.#call('sippet_info', [], true);
  }

  /**
   * Queue a request in llama-server's JSON. Images and sounds may be given as bytes in `media`; the body then names them
   * by position: {"type": "image_url", "image_url": {"url": "file://0"}}.
   * @param {'completion' | 'chat' | 'embedding' | 'rerank'} kind
   * @param {Record<string, unknown> | string} body
   * @param {Uint8Array[]} [media]
   * @returns {number} the request's number
   */
  submit(kind, body, media = []) {
    if (!(kind in KINDS)) throw new EngineError('bad_request', `unknown kind of request "${kind}"`);
    const text = typeof body === 'string' ? body : JSON.stringify(body);
    this.#wasi.setMedia(media);
    try {
      return this.#withBytes(text, (at, size) => this.#call('sippet_submit', [KINDS[kind], at, size]));
    } finally {
      this.#wasi.setMedia([]);
    }
  }

  /** Do at most one micro-batch of work. @returns {boolean} whether there is more to do */
  step() {
    return this.#call('sippet_step', []) === 1;
  }

  /**
   * What a request produced since the last call. `done` and `error` end it.
   * @param {number} id
   * @returns {{state: 'more' | 'done' | 'error', chunks: any[], error?: {code: string, message: string}}}
   */
  result(id) {
    return this.#call('sippet_result', [id], true);
  }

  /** Stop and forget a request; its slot is free. @param {number} id */
  cancel(id) {
    this.#call('sippet_cancel', [id]);
  }

  /** @param {{content: any, add_special?: boolean, parse_special?: boolean}} body @returns {{tokens: number[]}} */
  tokenize(body) {
    return this.#json('sippet_tokenize', body);
  }

  /** @param {{tokens: number[]}} body @returns {{content: string}} */
  detokenize(body) {
    return this.#json('sippet_detokenize', body);
  }

  /** @param {{messages: any[], tools?: any[]}} body @returns {{prompt: string}} */
  applyTemplate(body) {
    return this.#json('sippet_apply_template', body);
  }

  /** One idle slot's tokens and KV cache as bytes. @param {number} slot @returns {Uint8Array} */
  slotSave(slot) {
    this.#call('sippet_slot_save', [slot]);
    return this.#outputBytes();
  }

  /** @param {number} slot @param {Uint8Array} bytes @returns {{tokens: number}} */
  slotRestore(slot, bytes) {
    return this.#withBytes(bytes, (at, size) => this.#call('sippet_slot_restore', [slot, at, size], true));
  }

  /** Size of the WebAssembly memory now, in bytes. It never shrinks: end the worker to give it back. */
  memoryBytes() {
    return this.#wasi.memory.buffer.byteLength;
  }

  /** The newest log lines, oldest first. @returns {string[]} */
  recentLog() {
    return this.#wasi.recentLines();
  }

  /** End the threads and refuse further calls. The memory goes when the last reference to this object, or the worker, does. */
  close() {
    this.#pool.stop();
    this.#dead ??= new EngineError('closed', 'the engine is closed');
  }

  /** @param {string} text */
  async #loadAsync(text) {
    const load = /** @type {any} */ (WebAssembly).promising(this.#exports.sippet_load);
    const bytes = new TextEncoder().encode(text);
    const at = this.#copyIn(bytes);
    let status;
    try {
      status = await load(at, bytes.length);
    } catch (error) {
      throw this.#die(error);
    }
    this.#exports.sippet_release(at);
    return this.#finish(status, true);
  }

  /** @param {string} name @param {unknown} body */
  #json(name, body) {
    return this.#withBytes(JSON.stringify(body), (at, size) => this.#call(name, [at, size], true));
  }

  /** @param {string | Uint8Array} data @param {(at: number, size: number) => any} use */
  #withBytes(data, use) {
    const bytes = typeof data === 'string' ? new TextEncoder().encode(data) : data;
    const at = this.#copyIn(bytes);
    try {
      return use(at, bytes.length);
    } finally {
      if (!this.#dead) this.#exports.sippet_release(at);
    }
  }

  /** @param {Uint8Array} bytes @returns {number} */
  #copyIn(bytes) {
    if (this.#dead) throw this.#dead;
    const at = this.#exports.sippet_alloc(bytes.length) >>> 0;
    if (at === 0) throw new EngineError('out_of_memory', `no memory for a request of ${bytes.length} bytes`);
    this.#wasi.bytes().set(bytes, at);
    return at;
  }

  /** @param {string} name @param {any[]} args @param {boolean} [parse] */
  #call(name, args, parse = false) {
    if (this.#dead) throw this.#dead;
    let status;
    try {
      status = this.#exports[name](...args);
    } catch (error) {
      throw this.#die(error);
    }
    return this.#finish(status, parse);
  }

  /** @param {number} status @param {boolean} parse */
  #finish(status, parse) {
    if (status >= 0) return parse ? JSON.parse(this.#outputText()) : status;
    const cause = this.#wasi.takeReadError();
    const { code, message } = JSON.parse(this.#outputText());
    if (cause) throw new EngineError('read_failed', `reading the model failed: ${String(cause)}`, cause);
    throw new EngineError(code, message);
  }

  /** A trap leaves the instance in an unknown state: nothing may be called any more. @param {unknown} error */
  #die(error) {
    const last = this.#wasi.recentLines().slice(-3).join(' | ');
    this.#dead = new EngineError('engine_failed', `the engine crashed (${String(error)}): open it again. Last log: ${last}`, error);
    this.#pool.stop();
    return this.#dead;
  }

  #outputText() {
    return new TextDecoder().decode(this.#outputBytes());
  }

  #outputBytes() {
    const at = this.#exports.sippet_output() >>> 0;
    return this.#wasi.bytes().slice(at, at + (this.#exports.sippet_output_size() >>> 0));
  }
}

/** Workers that wait for a thread of the module to run; spawning is synchronous, so they are started beforehand. */
class ThreadPool {
  #workers = /** @type {Worker[]} */ ([]);
  #control = new Int32Array(0);
  #createWorker;

  /** @param {(url: string | URL, options: WorkerOptions) => Worker} createWorker */
  constructor(createWorker) {
    this.#createWorker = createWorker;
  }

  /**
   * @param {string | URL} url @param {WebAssembly.Module} module @param {WebAssembly.Memory} memory @param {number} count
   * @returns {Promise<number>} how many workers started
   */
  async start(url, module, memory, count) {
    this.#control = new Int32Array(new SharedArrayBuffer(4 * count));
    const started = await Promise.all(
      Array.from({ length: count }, (_, index) => this.#startOne(url, { module, memory, control: this.#control, index })),
    );
    return started.filter(Boolean).length;
  }

  /** Hand a thread block to an idle worker. @param {number} block @returns {number} 0, or -1 when none is idle */
  spawn(block) {
    for (let index = 0; index < this.#control.length; index++) {
      if (Atomics.compareExchange(this.#control, index, 0, block) === 0) {
        Atomics.notify(this.#control, index);
        return 0;
      }
    }
    return -1;
  }

  stop() {
    for (const worker of this.#workers) worker.terminate();
    this.#workers = [];
  }

  /** @param {string | URL} url @param {{control: Int32Array, index: number}} message @returns {Promise<boolean>} */
  #startOne(url, message) {
    return new Promise((resolve) => {
      const finish = (/** @type {boolean} */ ready) => {
        clearTimeout(timer);
        if (!ready) {
          Atomics.store(message.control, message.index, -1);
          worker?.terminate();
        }
        resolve(ready);
      };
      const timer = setTimeout(() => finish(false), WORKER_START_MS);
      let worker = /** @type {Worker | undefined} */ (undefined);
      try {
        worker = this.#createWorker(url, { type: 'module', name: `sippet-thread-${message.index + 1}` });
        worker.onmessage = () => finish(true);
        worker.onerror = () => finish(false);
        worker.postMessage(message);
        this.#workers.push(worker);
      } catch {
        finish(false);
      }
    });
  }
}

/** @param {string | URL | undefined} url @returns {Promise<WebAssembly.Module>} */
async function compile(url) {
  if (url === undefined) throw new EngineError('bad_request', 'openEngine needs wasmUrl or module');
  const response = await fetch(url);
  if (!response.ok) throw new EngineError('engine_missing', `${url} answered ${response.status}: the engine's files aren't served there`);
  const isWasm = (response.headers.get('content-type') ?? '').startsWith('application/wasm');
  return isWasm ? WebAssembly.compileStreaming(response) : WebAssembly.compile(await response.arrayBuffer());
}

/** @returns {WebAssembly.Memory} */
function sharedMemory() {
  const found = largestMemory(INITIAL_PAGES, true);
  if (!found) throw new EngineError('out_of_memory', 'this browser gives no shared WebAssembly memory: use the single-thread build');
  return found.memory;
}
