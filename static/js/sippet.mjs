/**
 * Sippet for JavaScript: the client of the Python package, with the same names in camelCase. Everything it does is done
 * by Python in a worker; this module passes messages.
 *
 *     const client = new SippClient();
 *     await client.add("chat", {source: "/models/smollm2/model.gguf"});
 *     const run = client.chat([{role: "user", content: "Hello"}], {emitTokens: true});
 *     for await (const {text} of run.tokens) show(text);
 *     const {finishReason} = await run;
 */

import {callbackOf, invalid, listOf, optionsOf, signalOf, unsendable} from "./checks.mjs";
import {environment} from "./environment.mjs";
import {SippError} from "./errors.mjs";
import {trustOrigins} from "./trusted.mjs";
import {makeWorker} from "./workers.mjs";

export {environment, SippError};

/** A client of its own Python runtime. Its options are those of the Python `SippClient`, in camelCase. */
export class SippClient {
  #port;
  #requests = new Map();
  #callbacks = new Map(); // by the request that brought them: functions of the page that Python calls
  #listeners = new Set();
  #lastId = 0;
  #state = "starting";
  #closed = null;
  #failure = null; // why the runtime can't answer
  #models = null;
  #endpoints = new Map();

  /**
   * @param {object} [options]
   * @param {"auto"|"worker"|"main-thread"} [options.executionMode]
   * @param {"auto"|"pthread"|"single-thread"} [options.wasmThreading]
   * @param {string} [options.moduleUrl] another engine module; with `wasmUrl`
   * @param {string} [options.wasmUrl]
   * @param {string} [options.workerUrl] another engine worker
   * @param {string[]} [options.trustedOrigins] more origins that engine files may come from
   * @param {boolean} [options.browserCache] install a model that is given by its address, so that it is fetched once
   */
  constructor(options) {
    options = optionsOf(options);
    const origins = Array.isArray(options.trustedOrigins) ? options.trustedOrigins : [];
    trustOrigins(origins.filter((origin) => URL.canParse(origin))); // Python refuses the others
    this.#port = connect(options.executionMode);
    this.#port.onmessage = ({data}) => this.#receive(data);
    this.#port.onerror = (event) => this.#fail(event);
    /** Resolves with the environment when Python is ready. @type {Promise<object>} */
    this.ready = this.#request("open", options).promise;
    this.ready.catch(() => {}); // every call reports it too
  }

  /** `starting`, `ready`, `loading`, `failed` or `closed`. */
  get state() {
    return this.#state;
  }

  /** The endpoints, in the order in which they were added. @type {object[]} */
  get endpoints() {
    return [...this.#endpoints.values()];
  }

  /**
   * Call `listener` with every event: `{type, endpoint, …}`. What it throws is reported, and stops nothing.
   * @param {(event: object) => void} listener
   * @returns {() => void} ends the subscription
   */
  subscribe(listener) {
    if (!callbackOf(listener, "listener")) throw callbackMissing("listener");
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Make an endpoint ready.
   * @param {string} id
   * @param {{kind?: "local"|"gateway"|"provider", onProgress?: (status: object) => void, signal?: AbortSignal}}
   *   descriptor the Python `LocalModel`, `Gateway` or `Provider` in camelCase. `apiKey`, `authentication.token` and
   *   `authentication.value` may be functions of the page, which are called at each request and may be async
   * @returns {Promise<{kind: string, id: string, info: object}>}
   */
  async add(id, descriptor) {
    const {onProgress, signal, ...given} = optionsOf(descriptor, "descriptor");
    const [fields, callbacks] = withoutCallbacks(given);
    for (const field of ["source", "projector", "lora"]) {
      if (field in fields) fields[field] = located(fields[field]);
    }
    const params = {id, descriptor: fields, callbacks: Object.keys(callbacks)};
    const request = this.#request("add", params, {progress: callbackOf(onProgress, "onProgress"), signal, callbacks});
    try {
      const ref = await request.promise;
      this.#endpoints.set(id, ref);
      return ref; // its callbacks stay: requests of an endpoint that was replaced may still need theirs
    } catch (error) {
      this.#callbacks.delete(request.id);
      throw error;
    }
  }

  /** Take an endpoint away and free its memory. @param {string|object} id */
  async remove(id) {
    await this.#request("remove", {id: idOf(id)}).promise;
    this.#endpoints.delete(idOf(id));
  }

  /**
   * Continue a raw prompt.
   * @param {string} prompt
   * @param {object} [options] the Python `TextOptions` in camelCase, `endpoint`, and `signal`
   * @returns {TextRun}
   */
  query(prompt, options) {
    return this.#run("query", {prompt}, options);
  }

  /**
   * Answer a conversation.
   * @param {{role: string, content: string}[]} messages
   * @param {object} [options] the Python `TextOptions` in camelCase, `endpoint`, and `signal`
   * @returns {TextRun}
   */
  chat(messages, options) {
    return this.#run("chat", {messages}, options);
  }

  /**
   * Turn texts into vectors.
   * @param {string|string[]} input
   * @param {object} [options] the Python `EmbedOptions` in camelCase, `endpoint`, and `signal`
   * @returns {Run} of `{embeddings, dimensions, pooling, normalized, usage}`
   */
  embed(input, options) {
    return this.#single("embed", {input}, options);
  }

  /**
   * Order documents by how well they answer a query.
   * @param {string} query
   * @param {string[]} documents
   * @param {{topN?: number, endpoint?: string|object, signal?: AbortSignal}} [options]
   * @returns {Run} of `{ranking: [{index, score, document}]}`
   */
  rerank(query, documents, options) {
    return this.#single("rerank", {query, documents}, options);
  }

  /** The tokens of a text. @param {string} text @param {object} [options] @returns {Promise<number[]>} */
  async tokenize(text, options) {
    return this.#single("tokenize", {text}, options);
  }

  /** The text of tokens. @param {number[]} tokens @param {object} [options] @returns {Promise<string>} */
  async detokenize(tokens, options) {
    return this.#single("detokenize", {tokens}, options);
  }

  /** The prompt of a conversation. @param {object[]} messages @param {object} [options] @returns {Promise<string>} */
  async applyTemplate(messages, options) {
    return this.#single("applyTemplate", {messages}, options);
  }

  /**
   * Keep a conversation's cache on this device: after a reload, its next request computes only what is new.
   * @param {string} key its `contextKey`
   * @param {object} [options] `endpoint`, `signal`
   * @returns {Promise<number>} the bytes that it takes
   */
  async saveContext(key, options) {
    return this.#single("saveContext", {key}, options);
  }

  /**
   * Delete a saved conversation: with every model, or with that of one endpoint.
   * @param {string} key
   * @param {object} [options] `endpoint`
   * @returns {Promise<void>}
   */
  async forgetContext(key, options) {
    return this.#single("forgetContext", {key}, options);
  }

  /**
   * Answer a conversation, calling functions whenever the model asks for it.
   * @param {object[]} messages
   * @param {{name: string, description?: string, parameters?: object, call: (args: object) => any}[]} tools functions
   *   of the page, with the JSON schema of their arguments
   * @param {object} [options] the Python `TextOptions` in camelCase, `maxSteps`, `endpoint`, `signal`; `python`: source
   *   whose functions are tools too, run in the runtime; `onTokens`, `onStep`: called as the conversation goes on
   * @returns {Run} of `{text, finishReason, messages, steps, usage}`
   */
  runTools(messages, tools = [], options) {
    const request = attempted(() => {
      const {endpoint, signal, python, onTokens, onStep, ...rest} = optionsOf(options);
      const callbacks = Object.create(null);
      const schemas = listOf(tools, "tools").map((tool) => {
        const {name, description = "", parameters = {type: "object"}, call} = optionsOf(tool, "tools");
        if (!callbackOf(call, "tools")) throw callbackMissing("tools");
        callbacks[name] = call;
        return {type: "function", function: {name, description, parameters}};
      });
      const params = {messages, tools: schemas, python, endpoint: idOf(endpoint), options: rest};
      const replies = {tokens: callbackOf(onTokens, "onTokens"), step: callbackOf(onStep, "onStep")};
      return this.#request("runTools", params, {...replies, signal, callbacks});
    });
    const forget = () => this.#callbacks.delete(request.id);
    request.promise.then(forget, forget);
    return new Run(request.promise, (reason) => this.#cancel(request.id, reason));
  }

  async #callBack(request, {call, name, arguments: values}) {
    const params = {call};
    try {
      params.content = (await this.#callbacks.get(request)[name](values)) ?? null;
    } catch (error) {
      params.error = String(error?.message ?? error);
    }
    const unheard = () => {}; // who waits for the answer reports what went wrong
    this.#request("callResult", params).promise.catch(({code, message}) => {
      if (code === "invalid_option") this.#request("callResult", {call, error: message}).promise.catch(unheard);
    });
  }

  /** The models that are installed here. @type {Models} */
  get models() {
    return (this.#models ??= new Models((params, options) => this.#request("models", params, options),
      (id, reason) => this.#cancel(id, reason)));
  }

  /** Cancel what runs and free everything. Safe to call twice. */
  close() {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close() {
    const isStarting = this.#state === "starting"; // then nothing is under way that should end well
    const request = this.#request("close");
    const patience = new Promise((resolve) => setTimeout(resolve, isStarting ? 0 : 2000));
    await Promise.race([request.promise.catch(() => {}), patience]);
    this.#state = "closed";
    this.#port.terminate?.();
    this.#port.close?.();
    for (const {reject} of this.#requests.values()) reject(clientClosed());
    this.#requests.clear();
    this.#callbacks.clear();
    this.#listeners.clear();
  }

  #single(method, params, options) {
    const request = this.#ask(method, params, options);
    return new Run(request.promise, (reason) => this.#cancel(request.id, reason));
  }

  #run(method, params, options) {
    const inbox = new TokenInbox(Boolean(options?.emitTokens));
    const request = this.#ask(method, params, options, {tokens: (batch) => inbox.put(batch)});
    request.promise.then(() => inbox.end(), (error) => inbox.end(error));
    return new TextRun(request.promise, inbox, (reason) => this.#cancel(request.id, reason));
  }

  #ask(method, params, options, replies) {
    return attempted(() => {
      const {endpoint, signal, ...rest} = optionsOf(options);
      return this.#request(method, {...params, endpoint: idOf(endpoint), options: rest}, {...replies, signal});
    });
  }

  #request(method, params = {}, {progress, tokens, step, callbacks = {}, signal} = {}) {
    signalOf(signal);
    const id = ++this.#lastId;
    const promise = new Promise((resolve, reject) => {
      if (this.#state === "closed") throw clientClosed();
      if (this.#failure) throw this.#failure;
      try {
        this.#port.postMessage({id, method, params});
      } catch {
        throw unsendable(params);
      }
      this.#requests.set(id, {resolve, reject, progress, tokens, step});
      if (Object.keys(callbacks).length) this.#callbacks.set(id, callbacks);
    });
    if (signal) {
      const abort = () => this.#cancel(id, String(signal.reason?.message ?? signal.reason ?? "aborted"));
      if (signal.aborted) abort();
      else signal.addEventListener("abort", abort, {once: true});
      promise.catch(() => {}).finally(() => signal.removeEventListener("abort", abort));
    }
    return {id, promise};
  }

  #cancel(request, reason) {
    if (!this.#requests.has(request)) return;
    this.#port.postMessage({id: ++this.#lastId, method: "cancel", params: {request, reason: String(reason)}});
  }

  #receive(message) {
    if (message.event) {
      const {type, state} = message.event;
      if (type === "state" && state !== "unloaded") this.#state = state; // that is an endpoint's, not the client's
      const event = {...message.event};
      if (event.error) event.error = new SippError(event.error);
      for (const listener of this.#listeners) tell(listener, event);
      return;
    }
    if ("call" in message) {
      this.#callBack(message.id, message.call);
      return;
    }
    const request = this.#requests.get(message.id);
    if (!request) return;
    if ("progress" in message) tell(request.progress, message.progress);
    else if ("tokens" in message) tell(request.tokens, message.tokens);
    else if ("step" in message) tell(request.step, message.step);
    else {
      this.#requests.delete(message.id);
      if ("error" in message) request.reject(new SippError(message.error));
      else request.resolve(message.result);
    }
  }

  #fail(event) {
    if (this.#state === "failed") return; // a runtime that said so itself answers every request
    this.#failure = new SippError({
      code: "asset",
      message: `The runtime worker failed: ${event?.message || "its script could not be loaded"}.`,
      hint: "Serve static/js unchanged, as text/javascript, with a policy that has worker-src 'self'.",
    });
    this.#state = "failed";
    for (const {reject} of this.#requests.values()) reject(this.#failure);
    this.#requests.clear();
  }
}

/** A request under way: a promise of its result that can be cancelled. */
export class Run {
  #cancel;

  constructor(promise, cancel) {
    /** The result. @type {Promise<object>} */
    this.response = promise;
    this.response.catch(() => {}); // a run that nobody awaits must not be an unhandled rejection
    this.#cancel = cancel;
  }

  /** Stop it. A text run keeps what has come so far; any other one fails with `cancelled`. @param {string} [reason] */
  cancel(reason = "cancelled") {
    this.#cancel(reason);
  }

  then(...handlers) {
    return this.response.then(...handlers);
  }

  catch(handler) {
    return this.response.catch(handler);
  }

  finally(handler) {
    return this.response.finally(handler);
  }
}

/** One generation, which also streams. */
export class TextRun extends Run {
  #inbox;

  constructor(promise, inbox, cancel) {
    super(promise, cancel);
    this.#inbox = inbox;
  }

  /** The text as it comes; ask for it with `emitTokens: true`. @type {AsyncIterable<{text: string}>} */
  get tokens() {
    return this.#inbox.read();
  }
}

/** The models that are installed here: the Python `ModelStore`. */
export class Models {
  #ask;
  #cancel;

  constructor(ask, cancel) {
    this.#ask = ask;
    this.#cancel = cancel;
  }

  /**
   * Install a model, or go on with an earlier attempt.
   * @param {string|Blob|(string|Blob)[]} source a URL, a file, their shards, a manifest's URL, or a registered name
   * @param {{id?: string, name?: string, projector?: string|Blob, evict?: boolean,
   *   onProgress?: (status: object) => void, signal?: AbortSignal}} [options]
   * @returns {Installation}
   */
  add(source, options) {
    const {id, promise} = attempted(() => {
      const {onProgress, signal, ...rest} = optionsOf(options);
      if (rest.projector) rest.projector = located(rest.projector);
      const progress = callbackOf(onProgress, "onProgress");
      return this.#ask({op: "add", source: located(source), options: rest}, {progress, signal});
    });
    const tell = (op) => this.#ask({op, request: id}).promise;
    return new Installation(promise, (reason) => this.#cancel(id, reason), tell);
  }

  /** The installed models, the latest used first. @returns {Promise<object[]>} */
  list() {
    return this.#ask({op: "list"}).promise;
  }

  /** One of them. @param {string} id @returns {Promise<object>} */
  get(id) {
    return this.#ask({op: "get", id}).promise;
  }

  /** Remove one. @param {string} id @returns {Promise<number>} the bytes that were freed */
  remove(id) {
    return this.#ask({op: "remove", id}).promise;
  }

  /**
   * Hold every chunk against its hash, and fetch the wrong ones again.
   * @param {string} id
   * @param {{repair?: boolean, onProgress?: (status: object) => void, signal?: AbortSignal}} [options]
   */
  async verify(id, options) {
    const {onProgress, signal, ...rest} = optionsOf(options);
    const progress = callbackOf(onProgress, "onProgress");
    return this.#ask({op: "verify", id, options: rest}, {progress, signal}).promise;
  }

  /**
   * What a model would take, from its header alone: only the first bytes of each file are fetched.
   * @param {string|Blob|(string|Blob)[]} source
   * @param {{projector?: string|Blob, context?: object, signal?: AbortSignal}} [options] `context`: the settings that it
   *   is to run with, as in `runtime.context`
   * @returns {Promise<object>} `{manifest, download, storage, enoughStorage, memory: {verdict, text, total, maxNCtx, …}}`
   */
  async estimate(source, options) {
    const {signal, ...rest} = optionsOf(options);
    if (rest.projector) rest.projector = located(rest.projector);
    return this.#ask({op: "estimate", source: located(source), options: rest}, {signal}).promise;
  }

  /** What there is, and what models take. @returns {Promise<object>} */
  storage() {
    return this.#ask({op: "storage"}).promise;
  }

  /** The models that can be added by name. @returns {Promise<{models: object[], defaultModel: string}>} */
  registry() {
    return this.#ask({op: "registry"}).promise;
  }

  /** Delete what downloads that have not ended left. @returns {Promise<number>} the bytes that were freed */
  removeUnfinished() {
    return this.#ask({op: "removeUnfinished"}).promise;
  }

  /** The memory that a model may take here. @returns {Promise<{nbytes: number, reason: string}>} */
  memoryLimit() {
    return this.#ask({op: "memoryLimit"}).promise;
  }

  /** Ask the browser to keep the models when space runs low. @returns {Promise<boolean>} whether it promises to */
  async persist() {
    if (await globalThis.navigator.storage?.persisted?.()) return true;
    // Only a page may ask: the runtime, in its worker, could not.
    if (globalThis.document && navigator.storage?.persist) return navigator.storage.persist();
    return this.#ask({op: "persist"}).promise;
  }
}

/** A model on its way: a promise of the installed one. */
export class Installation extends Run {
  #tell;

  constructor(promise, cancel, tell) {
    super(promise, cancel);
    this.#tell = tell;
  }

  /** Stop fetching until `resume()`; what has arrived is kept. */
  pause() {
    return this.#tell("pause");
  }

  /** Go on. */
  resume() {
    return this.#tell("resume");
  }
}

/** The batches of a run; each reader gets all of them. */
class TokenInbox {
  #batches = [];
  #ended = false;
  #error = null;
  #waiting = new Set(); // what wakes those who have read all that came

  constructor(open) {
    this.open = open;
  }

  put(batch) {
    this.#batches.push(batch);
    this.#wake();
  }

  end(error = null) {
    this.#ended = true;
    this.#error = error;
    this.#wake();
  }

  #wake() {
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
  }

  async *read() {
    if (!this.open) {
      throw new SippError({
        code: "usage", message: "This run does not stream.", hint: "Pass emitTokens: true to read run.tokens.",
      });
    }
    for (let next = 0; ;) {
      if (next < this.#batches.length) yield this.#batches[next++];
      else if (this.#error) throw this.#error;
      else if (this.#ended) return;
      else await new Promise((resolve) => this.#waiting.add(resolve));
    }
  }
}

/** A model's name, as against an address or a path; Python goes by the same rule. */
const NAME = /^(?!.*\.(gguf|json)$)[A-Za-z0-9][A-Za-z0-9._-]*$/;

/** A source whose addresses don't depend on where the runtime's script is: they are the page's own. */
function located(source) {
  if (Array.isArray(source)) return source.map(located);
  if (typeof source !== "string" || source === "" || NAME.test(source)) return source;
  const base = globalThis.document?.baseURI ?? location.href;
  return URL.canParse(source, base) ? new URL(source, base).href : source;
}

/** A descriptor that can be sent, and the callbacks for credentials that were in it, by their names. */
function withoutCallbacks(descriptor) {
  const callbacks = {};
  const sendable = (fields, ...names) => {
    const rest = {...fields};
    for (const name of names) {
      if (typeof rest[name] !== "function") continue;
      callbacks[name] = rest[name];
      delete rest[name];
    }
    return rest;
  };
  const fields = sendable(descriptor, "apiKey");
  const {authentication} = fields;
  if (authentication && typeof authentication === "object") {
    fields.authentication = sendable(authentication, "token", "value");
  }
  return [fields, callbacks];
}

/** A request, or one that has failed already. */
function attempted(make) {
  try {
    return make();
  } catch (error) {
    const promise = Promise.reject(error);
    promise.catch(() => {}); // whoever waits for it hears it
    return {id: null, promise};
  }
}

/** Call a function of the page. What it throws is its own affair: no request fails of it. */
function tell(callback, news) {
  try {
    callback?.(news);
  } catch (error) {
    reportError(error);
  }
}

const clientClosed = () =>
  new SippError({code: "client_closed", message: "The client is closed.", hint: "Make a new SippClient."});

const callbackMissing = (name) => invalid(name, `${name} needs a function.`, "Give one that takes what comes.");

const idOf = (endpoint) => (typeof endpoint === "object" && endpoint ? endpoint.id : endpoint);

/** A port to a runtime: a worker of its own, or this very thread. */
function connect(executionMode) {
  if (executionMode !== "main-thread") {
    const url = new URL("./runtime_worker.mjs", import.meta.url);
    return makeWorker(url, {type: "module", name: "sippet runtime"}, {isOurs: true});
  }
  const {port1, port2} = new MessageChannel();
  import("./runtime.mjs").then(({serveRuntime}) => serveRuntime(port2));
  return port1;
}
