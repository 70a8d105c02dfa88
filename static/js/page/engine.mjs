/** The page's side of the client: starts it, holds one model, and says what state both are in. */

/**
 * @typedef {object} Choice a model that somebody chose
 * @property {string} name
 * @property {string | File | (string | File)[]} source
 * @property {string | File} [projector] what makes images readable for it
 * @property {Record<string, any>} [listed] its entry in the page's configuration
 */

const ENDPOINT = "chat";
const NOTHING = Object.freeze({model: "none", choice: null, info: null});

/** Events: `change` (any state), `progress` (detail: the progress). */
export class Engine extends EventTarget {
  /** @type {"starting" | "ready" | "failed"} */
  runtime = "starting";
  /** @type {"none" | "loading" | "ready"} */
  model = "none";
  /** @type {any} what the runtime said about this browser */
  environment = null;
  /** @type {Choice | null} the model that answers, or will when it is loaded */
  choice = null;
  /** @type {any} facts about the loaded model */
  info = null;
  /** @type {any} why the runtime could not start */
  failure = null;
  /** What the client holds, whatever is being loaded. @type {{model: any, choice: Choice | null, info: any}} */
  #held = NOTHING;
  /** @type {Promise<any> | null} */
  #client = null;
  /** @type {Promise<void> | null} */
  #started = null;
  /** @type {{controller: AbortController, done: Promise<void>} | null} */
  #loading = null;

  /** Boots the runtime; anew after a failure. @returns {Promise<void>} rejects with what went wrong */
  start() {
    this.#started ??= this.#boot();
    return this.#started;
  }

  async #boot() {
    this.runtime = "starting";
    this.failure = null;
    this.#changed();
    this.#client = import("../sippet.mjs").then(
      ({SippClient}) => new SippClient({executionMode: "auto", wasmThreading: "auto"}));
    try {
      this.environment = await (await this.#client).ready;
      this.runtime = "ready";
      this.#changed();
    } catch (error) {
      void this.#client.then((client) => client.close()).catch(() => {});
      this.runtime = "failed";
      this.failure = error;
      this.#started = null;
      this.#held = NOTHING;
      Object.assign(this, this.#held);
      this.#changed();
      throw error;
    }
  }

  /**
   * Loads a model in place of the present one, which stays when that fails. The runtime may still be booting; a load
   * that is under way is cancelled.
   * @param {Choice} choice
   * @param {{nCtx?: number}} [context]
   */
  async load(choice, context = {}) {
    const previous = this.#loading;
    previous?.controller.abort();
    const controller = new AbortController();
    const add = async () => {
      await previous?.done.catch(() => {});
      await this.#add(choice, context, controller.signal);
    };
    const loading = {controller, done: add()};
    this.#loading = loading;
    Object.assign(this, {model: "loading", choice, info: null});
    this.#changed();
    try {
      await loading.done;
    } finally {
      if (this.#loading === loading) {
        this.#loading = null;
        Object.assign(this, this.#held);
        this.#changed();
      }
    }
  }

  /**
   * @param {Choice} choice
   * @param {object} context
   * @param {AbortSignal} signal
   */
  async #add(choice, context, signal) {
    const descriptor = {
      kind: "local",
      source: choice.source,
      projector: choice.projector,
      backend: "auto",
      runtime: {context},
      onProgress: (/** @type {any} */ progress) => {
        if (!signal.aborted) this.dispatchEvent(new CustomEvent("progress", {detail: progress}));
      },
      signal,
    };
    // Not after the boot but together with it: the client fetches the model while Python starts.
    const failed = this.start().then(() => new Promise(() => {}));
    const added = async () => (await this.#client)?.add(ENDPOINT, descriptor);
    const reference = await abortable(signal, Promise.race([added(), failed]));
    this.#held = {model: "ready", choice, info: reference.info ?? {}};
  }

  /** Ends a load that is under way. */
  cancelLoad() {
    this.#loading?.controller.abort();
  }

  /**
   * Waits for a load that is under way. Whoever asked for the load hears why it failed.
   * @param {AbortSignal} signal
   * @returns {Promise<boolean>} whether a model can answer
   */
  async whenReady(signal) {
    if (this.#loading) {
      const aborted = new Promise((resolve) => signal.addEventListener("abort", resolve, {once: true}));
      await Promise.race([this.#loading.done.catch(() => {}), aborted]);
    }
    return !signal.aborted && this.#held.model === "ready";
  }

  /**
   * @param {{role: string, content: string | object[]}[]} messages
   * @param {Record<string, any>} options sampling and `signal`
   * @returns {Promise<any>} the run, in a box, because it is a promise itself
   */
  async chat(messages, options) {
    const client = await this.#client;
    return {run: client.chat(messages, {endpoint: ENDPOINT, emitTokens: true, ...options})};
  }

  /**
   * Keeps what the model has computed of a conversation.
   * @param {string} key
   * @returns {Promise<number | null>} bytes that it takes; null where this engine or browser can't, or has it no more
   */
  async saveContext(key) {
    try {
      return await (await this.#client).saveContext(key, {endpoint: ENDPOINT});
    } catch (error) {
      if (["unsupported_operation", "invalid_option", "storage"].includes(error?.code)) return null;
      throw error;
    }
  }

  /** Deletes what was kept of a conversation, with whichever model. @param {string} key */
  async forgetContext(key) {
    await this.#started; // where it failed there is nobody to ask: the next start of the page sees to it
    await (await this.#client).forgetContext(key);
  }

  /** The models that are kept in this browser, for use without a network. @returns {Promise<any[]>} */
  async kept() {
    await this.start();
    return (await this.#client).models.list();
  }

  /**
   * Fetches a listed model to keep it; its manifest, or the registry, has the hash of every chunk. The registry has the
   * projector too.
   * @param {any} listed its entry in the page's configuration
   * @param {{onProgress: (progress: any) => void, signal: AbortSignal}} options
   * @returns {Promise<any>} the installation, in a box, because it is a promise itself; it can be paused
   */
  async keep({id, name, manifest, projector}, options) {
    await this.start();
    return {installation: (await this.#client).models.add((!projector && manifest) || id, {id, name, ...options})};
  }

  /** What there is, and what models take. @returns {Promise<any>} */
  async storage() {
    return (await this.#client).models.storage();
  }

  /** @returns {Promise<{nbytes: number, reason: string}>} the memory that a model may take here */
  async memoryLimit() {
    return (await this.#client).models.memoryLimit();
  }

  /** Asks the browser to keep the models. @returns {Promise<boolean>} whether it promises to */
  async persist() {
    return (await this.#client).models.persist();
  }

  async removeUnfinished() {
    await (await this.#client).models.removeUnfinished();
  }

  /** @param {string} id of a model that is kept */
  async discard(id) {
    await (await this.#client).models.remove(id);
  }

  /** The engine died: what the client holds can't answer any more. @returns {Choice | null} what to load again */
  lose() {
    const {choice} = this.#held;
    this.#held = NOTHING;
    if (!this.#loading) Object.assign(this, NOTHING);
    this.#changed();
    return choice;
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * Doesn't wait for what was cancelled to wind down.
 * @template T
 * @param {AbortSignal} signal
 * @param {Promise<T>} work
 * @returns {Promise<T>}
 */
function abortable(signal, work) {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    else signal.addEventListener("abort", abort, {once: true});
    work.then(resolve, reject);
  });
}
