/**
 * An engine behind a message port. The same code serves a worker's own scope and a MessageChannel in the caller's
 * thread. One port holds one engine with one loaded model.
 *
 * Messages in, `id` chosen by the sender:
 *   {op: "warm", engine, moduleUrl, wasmUrl}  fetch and compile ahead of "open"; no answer
 *   {op: "open", id, engine, ...options}   load the WebAssembly module            → {id, opened: {…}}
 *   {op: "call", id, name, data, bytes}    one request, one reply                 → {id, data}
 *   {op: "stream", id, ...}                poll a request until it has no more    → {id, data}…, {id, data, last: true}
 *   {op: "cancel", id, ...}                stop the stream `id`                   → {id, cancelled: true, last: true}
 * A failure                                                                       → {id, error: {kind, message, log}}
 * While streams advance without a word for anybody, such as in a long prefill     → {id: 0, alive: true}
 *
 * Streams advance in turn, one step of the engine at a time, and messages are taken in between: a cancel or another
 * request waits for one step at most.
 */

const ALIVE_EVERY = 5000; // ms

const ENGINES = {
  sippet: {
    load: () => import("./engine_sippet.mjs"),
    async open({openSippet, SippetStreams}, options) {
      const engine = await openSippet(options);
      return {engine, streams: new SippetStreams(engine)};
    },
  },
  wllama: {
    load: () => Promise.all([import("./engine_wllama.mjs"), import("./engine_streams.mjs")]),
    async open([{openWllama}, {WllamaStreams}], options) {
      const engine = await openWllama(options);
      return {engine, streams: new WllamaStreams(engine)};
    },
  },
};

/** @param {{postMessage: Function, onmessage: ?Function}} port */
export function serveEngine(port) {
  let open = null;
  let warm = null; // {url, module}: a WASM file that is being compiled ahead
  let busy = false;
  let chain = Promise.resolve(); // calls run one at a time: the module is not re-entrant

  const reply = (message) => port.postMessage(message, message.data?.buffer ? [message.data.buffer] : []);
  const fail = (id, error) => {
    const kind = open?.engine.crashed() || error instanceof WebAssembly.RuntimeError ? "crash" : "call";
    const log = error.log ?? open?.engine.log() ?? [];
    const {code = null, fields = null} = error;
    port.postMessage({id, error: {kind, code, fields, message: String(error?.message ?? error), log}, last: true});
  };
  const inTurn = (id, work) => {
    chain = chain.then(work).catch((error) => fail(id, error));
  };

  async function run() {
    if (busy) return;
    busy = true;
    let told = performance.now();
    while (open.streams.active()) {
      inTurn(null, () => open.streams.advance(reply, fail));
      await chain;
      if (performance.now() - told > ALIVE_EVERY) {
        port.postMessage({id: 0, alive: true});
        told = performance.now();
      }
      await nextTask(); // let messages in: a promise alone would starve them
    }
    busy = false;
  }

  port.onmessage = ({data: message}) => {
    const {op, id} = message;
    if (op === "warm") {
      ENGINES[message.engine].load();
      import(message.moduleUrl).catch(() => {}); // "open" will meet the same failure and report it
      warm = {url: message.wasmUrl, module: compile(message.wasmUrl)};
      warm.module.catch(() => {});
    } else if (op === "open") {
      inTurn(id, async () => {
        const {load, open: start} = ENGINES[message.engine];
        const compiled = warm?.url === message.wasmUrl ? warm.module : compile(message.wasmUrl);
        warm = null;
        open = await start(await load(), {...message, compiled});
        port.postMessage({id, opened: {memoryBytes: open.engine.memoryBytes(), threads: open.engine.threads}});
      });
    } else if (op === "call") {
      inTurn(id, async () => {
        const data = await open.engine.call(message.name, message.data, message.bytes);
        reply(message.name === "load" ? {id, data, log: open.engine.log()} : {id, data});
      });
    } else if (op === "stream") {
      inTurn(id, async () => {
        await open.streams.add(id, message);
        run();
      });
    } else if (op === "cancel") {
      inTurn(id, async () => {
        await open.streams.cancel(id, message);
        port.postMessage({id, cancelled: true, last: true});
      });
    } else if (op === "memory") {
      inTurn(id, () => port.postMessage({id, bytes: open?.engine.memoryBytes() ?? 0}));
    } else if (op === "close") {
      open?.engine.close();
      port.close?.();
    }
  };
}

/** Compile a WASM file as it arrives. What goes wrong is said with the address. */
async function compile(url) {
  const response = await fetch(url, {credentials: "same-origin"});
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
  const type = response.headers.get("content-type")?.split(";")[0];
  if (type !== "application/wasm") throw new Error(`${url} is served as ${type} instead of application/wasm`);
  return WebAssembly.compileStreaming(response);
}

const {port1, port2} = new MessageChannel();
const waiting = [];
port1.onmessage = () => waiting.shift()?.();

/** Resolve in a task of its own; unlike `setTimeout(0)` it is never clamped to 4 ms. */
function nextTask() {
  return new Promise((resolve) => {
    waiting.push(resolve);
    port2.postMessage(0);
  });
}
