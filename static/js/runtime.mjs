/**
 * The runtime: Pyodide with the `sippet` package, behind a message port. Works in a worker and in a page's own thread.
 */

import {environment, likelyBuild} from "./environment.mjs";
import {serveEngine} from "./engine_host.mjs";
import {SippError} from "./errors.mjs";
import {isTrusted, trustedWorker, trustOrigins} from "./trusted.mjs";
import {makeWorker} from "./workers.mjs";

const ENGINE = new URL("../engine/", import.meta.url).href;
const VENDOR = new URL("../vendor/", import.meta.url).href;
const BUILT = new URL("../runtime/", import.meta.url).href;
const BOOT_LIMIT = 120_000; // ms; a blocked WASM file makes Pyodide wait for ever

/**
 * Serve the page at `port`. Messages that come before Python is ready wait, but what they need is fetched meanwhile.
 * @param {{postMessage: Function, onmessage: ?Function}} port
 */
export function serveRuntime(port) {
  const fetches = new Map(); // downloads that began before Python asked for them
  const early = [];
  const open = new Set(); // requests without an answer
  let engine = null; // the engine host that is warming up
  let ahead = true; // whether models are fetched before Python asks for them
  let receive = (message) => {
    early.push(message);
    if (message.method === "open") {
      engine ??= warmEngine(message.params);
      ahead = !message.params?.browserCache; // else it may be here already
    }
    if (message.method === "add" && ahead) prefetch(fetches, message);
    if (message.method === "cancel") for (const {controller} of fetches.values()) controller.abort();
  };
  port.onmessage = ({data}) => {
    open.add(data.id);
    receive(data);
  };
  const send = (message) => {
    if ("result" in message || "error" in message) {
      open.delete(message.id);
      endUnused(fetches, message.id);
    }
    port.postMessage(message);
  };
  const fail = (error) => {
    receive = ({id}) => send({id, error: error.toJSON()});
    for (const id of open) receive({id});
  };

  const offers = {
    ...OFFERS,
    enginePort(mode, workerUrl) {
      const warm = engine?.mode === mode && !workerUrl ? engine.port : null;
      if (warm) engine = null;
      return warm ?? startEngine(mode, workerUrl);
    },
    fetchModel(url, options) {
      const begun = fetches.get(url);
      fetches.delete(url);
      if (!begun || begun.controller.signal.aborted) return fetch(url, options);
      options?.signal?.addEventListener("abort", () => begun.controller.abort());
      return begun.response;
    },
  };

  const died = (error) => {
    send({event: {type: "state", state: "failed"}});
    fail(new SippError({
      code: "engine_crashed",
      message: `Python stopped: ${error?.message ?? error}`,
      hint: "Make a new SippClient; what was installed is still there.",
    }));
  };
  loadPython({offers, died}).then((python) => {
    const serve = python.pyimport("sippet.platform._page").serve(send);
    receive = (message) => serve(message);
    for (const message of early.splice(0)) receive(message);
  }, fail);
}

/** What Python's browser platform (`sippet/platform/_browser.py`) asks of JavaScript. */
const OFFERS = {
  environment,
  trustOrigins,
  isTrusted,
  engineAssets,
  enginePort: startEngine,
  storagePort: () => makeWorker(new URL("./storage_worker.mjs", import.meta.url), {type: "module"}, {isOurs: true}),
  endPort: (engine) => (engine.terminate ? engine.terminate() : endInThread(engine)),
  fetchModel: fetch.bind(globalThis),
};

/**
 * Start Pyodide with the `sippet` package ready to import, in this thread.
 * @param {{packages?: string[], offers?: object, died?: (error: Error) => void}} [options] `packages`: more packages of the
 *   lock, such as "micropip"; `died`: called when Python has stopped for good, as on a stack overflow: whoever waits for
 *   it would wait for ever
 * @returns {Promise<object>} Pyodide
 */
export async function loadPython({packages = [], offers = OFFERS, died} = {}) {
  const wanted = ["sippet", ...packages];
  try {
    const {loadPyodide} = await import(`${VENDOR}pyodide/pyodide.mjs`);
    const lock = await fetchText(`${BUILT}pyodide-lock.json`);
    const complaints = [];
    const python = await within(BOOT_LIMIT, loadPyodide({
      indexURL: `${VENDOR}pyodide/`,
      stdLibURL: `${BUILT}python_stdlib.zip`,
      lockFileContents: lock,
      packageBaseUrl: BUILT,
      packages: wanted,
      stderr: (line) => complaints.push(line),
      env: {PYTHONDONTWRITEBYTECODE: "1"},
    }));
    // Pyodide only logs that a package's hash was wrong: look at what was really loaded.
    const missing = wanted.filter((name) => !(name in python.loadedPackages));
    if (missing.length) throw new Error(`${missing.join(", ")} not loaded: ${complaints.join(" ")}`);
    python.registerJsModule("_sippet_runtime", offers);
    python._api.on_fatal = died;
    return python;
  } catch (error) {
    throw new SippError({
      code: "asset",
      message: `Python could not be started: ${error?.message ?? error}`,
      hint:
        "Serve the runtime's files unchanged, with a policy that has script-src 'self' 'wasm-unsafe-eval' and " +
        "connect-src 'self', then reload.",
      details: {base: BUILT},
    });
  }
}

async function fetchText(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
  return response.text();
}

function within(ms, promise) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing happened within ${ms / 1000} seconds`)), ms);
  });
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}

const inThread = new WeakMap(); // the other ends of ports to engines in this thread

function startEngine(mode, workerUrl) {
  if (mode === "worker") {
    if (workerUrl) return trustedWorker(workerUrl, {type: "module"});
    return makeWorker(new URL("./engine_worker.mjs", import.meta.url), {type: "module"}, {isOurs: true});
  }
  const {port1, port2} = new MessageChannel();
  serveEngine(port2);
  inThread.set(port1, port2);
  return port1;
}

function endInThread(port) {
  port.postMessage({op: "close"});
  inThread.delete(port);
}

/** Begin to load the engine that a page most likely wants; Python, which decides, can still take another. */
function warmEngine({executionMode, wasmThreading, workerUrl, moduleUrl, engine} = {}) {
  if (workerUrl || moduleUrl || engine === "wllama") return null;
  const mode = executionMode === "main-thread" ? "main-thread" : "worker";
  const port = startEngine(mode);
  const {module_url: url, wasm_url: wasmUrl} = engineAssets(likelyBuild(wasmThreading !== "single-thread"));
  port.postMessage({op: "warm", engine: "sippet", moduleUrl: url, wasmUrl});
  return {mode, port};
}

function prefetch(fetches, {id, params}) {
  const source = params?.descriptor?.source;
  if (typeof source === "string" && source.includes("/") && !source.endsWith(".json") && !fetches.has(source)) {
    const controller = new AbortController();
    const response = fetch(source, {signal: controller.signal});
    response.catch(() => {}); // whoever asks for it will hear
    fetches.set(source, {id, response, controller});
  }
}

/** End what was fetched ahead for a request that did without it: the model was refused, say. */
function endUnused(fetches, id) {
  for (const [source, begun] of fetches) {
    if (begun.id !== id) continue;
    begun.controller.abort();
    fetches.delete(source);
  }
}

/** Where an engine build's files are. @param {string} build "wllama", "wllama-compat" or "sippet-…" */
function engineAssets(build) {
  if (build.startsWith("sippet-")) {
    return {
      module_url: `${ENGINE}sippet_engine.mjs`,
      wasm_url: `${ENGINE}${build}.wasm`,
      pthread_url: `${ENGINE}sippet_thread.mjs`,
    };
  }
  const base = `${VENDOR}${build}/`;
  return {
    module_url: `${base}wllama.mjs`,
    wasm_url: `${base}wllama.wasm`,
    pthread_url: `${base}wllama.pthread.js`,
  };
}
