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

import {environment} from "./environment.mjs";
import {SippError} from "./errors.mjs";
import {trustedWorker, trustOrigins} from "./trusted.mjs";

export {environment, SippError};

/** A client of its own Python runtime. Its options are those of the Python `SippClient`, in camelCase. */
export class SippClient {
  #port;
  #requests = new Map();
  #listeners = new Set();
  #lastId = 0;
  #state = "starting";
  #closed = null;

  /**
   * @param {object} [options]
   * @param {"auto"|"worker"|"main-thread"} [options.executionMode]
   * @param {"auto"|"pthread"|"single-thread"} [options.wasmThreading]
   * @param {string} [options.moduleUrl] another engine module; with `wasmUrl`
   * @param {string} [options.wasmUrl]
   * @param {string} [options.workerUrl] another engine worker
   * @param {string[]} [options.trustedOrigins] more origins that engine files may come from
   */
  constructor(options = {}) {
    trustOrigins(options.trustedOrigins ?? []);
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

  /**
   * Call `listener` with every event: `{type, endpoint, …}`.
   * @param {(event: object) => void} listener
   * @returns {() => void} ends the subscription
   */
  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Make an endpoint ready.
   * @param {string} id
   * @param {{kind?: "local", source: string|Blob|(string|Blob)[], backend?: string, runtime?: object,
   *   onProgress?: (status: object) => void, signal?: AbortSignal}} descriptor
   * @returns {Promise<{kind: string, id: string, info: object}>}
   */
  async add(id, {onProgress, signal, ...descriptor}) {
    return this.#request("add", {id, descriptor}, {progress: onProgress, signal}).promise;
  }

  /** Take an endpoint away and free its memory. @param {string} id */
  async remove(id) {
    return this.#request("remove", {id}).promise;
  }

  /**
   * Continue a raw prompt.
   * @param {string} prompt
   * @param {object} [options] the Python `TextOptions` in camelCase, `endpoint`, and `signal`
   * @returns {TextRun}
   */
  query(prompt, {endpoint, signal, ...options} = {}) {
    return this.#run("query", {prompt, endpoint: idOf(endpoint), options}, signal);
  }

  /**
   * Answer a conversation.
   * @param {{role: string, content: string}[]} messages
   * @param {object} [options] the Python `TextOptions` in camelCase, `endpoint`, and `signal`
   * @returns {TextRun}
   */
  chat(messages, {endpoint, signal, ...options} = {}) {
    return this.#run("chat", {messages, endpoint: idOf(endpoint), options}, signal);
  }

  /** Cancel what runs and free everything. Safe to call twice. */
  close() {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close() {
    const request = this.#request("close");
    const patience = new Promise((resolve) => setTimeout(resolve, 2000));
    await Promise.race([request.promise.catch(() => {}), patience]);
    this.#state = "closed";
    this.#port.terminate?.();
    this.#port.close?.();
    const error = new SippError({code: "client_closed", message: "The client is closed.", hint: "Make a new SippClient."});
    for (const {reject} of this.#requests.values()) reject(error);
    this.#requests.clear();
    this.#listeners.clear();
  }

  #run(method, params, signal) {
    const inbox = new TokenInbox(Boolean(params.options.emitTokens));
    const request = this.#request(method, params, {tokens: (batch) => inbox.put(batch), signal});
    request.promise.then(() => inbox.end(), (error) => inbox.end(error));
    return new TextRun(request.promise, inbox, (reason) => this.#cancel(request.id, reason));
  }

  #request(method, params = {}, {progress, tokens, signal} = {}) {
    const id = ++this.#lastId;
    const promise = new Promise((resolve, reject) => {
      if (this.#state === "closed") {
        reject(new SippError({code: "client_closed", message: "The client is closed.", hint: "Make a new SippClient."}));
        return;
      }
      this.#requests.set(id, {resolve, reject, progress, tokens});
      try {
        this.#port.postMessage({id, method, params});
      } catch (error) {
        this.#requests.delete(id);
        reject(new SippError({code: "invalid_option", message: `An argument can't be sent: ${error.message}`}));
      }
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
    if (this.#requests.has(request)) this.#port.postMessage({id: ++this.#lastId, method: "cancel", params: {request, reason}});
  }

  #receive(message) {
    if (message.event) {
      if (message.event.type === "state") this.#state = message.event.state;
      for (const listener of this.#listeners) listener(message.event);
      return;
    }
    const request = this.#requests.get(message.id);
    if (!request) return;
    if ("progress" in message) request.progress?.(message.progress);
    else if ("tokens" in message) request.tokens?.(message.tokens);
    else {
      this.#requests.delete(message.id);
      if ("error" in message) request.reject(new SippError(message.error));
      else request.resolve(message.result);
    }
  }

  #fail(event) {
    const error = new SippError({
      code: "asset",
      message: `The runtime worker failed: ${event?.message || "its script could not be loaded"}.`,
      hint: "Serve static/js unchanged, as text/javascript, with a policy that has worker-src 'self'.",
    });
    this.#state = "failed";
    for (const {reject} of this.#requests.values()) reject(error);
    this.#requests.clear();
  }
}

/** One generation: a promise of its result that also streams and can be cancelled. */
export class TextRun {
  #inbox;

  constructor(promise, inbox, cancel) {
    /** The final result. @type {Promise<object>} */
    this.response = promise;
    this.response.catch(() => {}); // a run that nobody awaits must not be an unhandled rejection
    this.#inbox = inbox;
    this.#cancel = cancel;
  }

  #cancel;

  /** Stop the engine; what has come so far stays on the result. @param {string} [reason] */
  cancel(reason = "cancelled") {
    this.#cancel(reason);
  }

  /** The text as it comes; ask for it with `emitTokens: true`. @type {AsyncIterable<{text: string}>} */
  get tokens() {
    return this.#inbox.read();
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

/** Batches that came and were not read yet. */
class TokenInbox {
  #batches = [];
  #ended = false;
  #error = null;
  #wake = () => {};

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

  async *read() {
    if (!this.open) {
      throw new SippError({
        code: "usage", message: "This run does not stream.", hint: "Pass emitTokens: true to read run.tokens.",
      });
    }
    for (;;) {
      if (this.#batches.length) yield this.#batches.shift();
      else if (this.#error) throw this.#error;
      else if (this.#ended) return;
      else await new Promise((resolve) => (this.#wake = resolve));
    }
  }
}

const idOf = (endpoint) => (typeof endpoint === "object" && endpoint ? endpoint.id : endpoint);

/** A port to a runtime: a worker of its own, or this very thread. */
function connect(executionMode) {
  if (executionMode !== "main-thread") {
    return trustedWorker(new URL("./runtime_worker.mjs", import.meta.url), {type: "module", name: "sippet runtime"});
  }
  const {port1, port2} = new MessageChannel();
  import("./runtime.mjs").then(({serveRuntime}) => serveRuntime(port2));
  return port1;
}
