/**
 * One model, few methods, any engine: `LocalLLM`, the same as Python's `sippet.simple`.
 *
 *     const llm = new LocalLLM();
 *     llm.onStatusChange(({text}) => show(text));
 *     console.log(await llm.prompt("What is the capital of France?"));
 *     await llm.unload();
 *
 * `llm.status` is a store by Svelte's contract (`$llm.status` works there); React takes it by
 * `useSyncExternalStore(llm.status.subscribe, llm.status.get)`.
 */

import {callbackOf, invalid, listOf, optionsOf} from "./checks.mjs";
import {SippClient, SippError} from "./sippet.mjs";

export const EXTRACT = "Take the data out of the text and answer with JSON only.";
export const CLASSIFY = "Say which label fits the text best. Answer with one of: {labels}.";

const IDLE = Object.freeze({
  state: "idle", text: "Not loaded.", bytes: 0, total: null, rate: null, eta: null, waiting: false,
});
const ENDPOINT = "model";

/** A value and those who watch it. */
export class Store {
  #value;
  #watchers = new Map();

  constructor(value) {
    this.#value = value;
    this.get = () => this.#value;
    this.subscribe = (watcher) => {
      const key = Symbol();
      this.#watchers.set(key, watcher);
      watcher(this.#value);
      return () => void this.#watchers.delete(key);
    };
  }

  set(value) {
    this.#value = value;
    for (const watcher of [...this.#watchers.values()]) watcher(value);
  }
}

/** Sippet's own engine, and the shape of any other: these methods are the plug. */
export class SippEngine {
  #client = null;
  #options;
  #runtime;

  /** @param {{runtime?: object}} [options] `runtime`, and the options of `SippClient` */
  constructor(given) {
    const {runtime, ...options} = optionsOf(given);
    this.#options = options;
    this.#runtime = runtime;
  }

  /** @returns {Promise<{supported: boolean, reason: string}>} */
  async isSupported() {
    try {
      const {simd} = await this.#open().ready;
      return {supported: simd, reason: simd ? "" : "This browser's WebAssembly has no SIMD."};
    } catch (error) {
      return {supported: false, reason: error.message};
    }
  }

  /** The registry. @returns {Promise<{models: object[], defaultModel: string}>} */
  registry() {
    return this.#open().models.registry();
  }

  /** @param {string} model @returns {Promise<boolean>} */
  async hasModel(model) {
    return this.#open().models.get(model).then(() => true, () => false);
  }

  /** @param {string} model @param {(status: object) => void} onStatus */
  async load(model, onStatus) {
    await this.#open().add(ENDPOINT, {source: model, runtime: this.#runtime, onProgress: onStatus});
  }

  /** @param {object[]} messages @param {object} options @param {?(text: string) => void} onText */
  async generate(messages, options, onText) {
    const run = this.#open().chat(messages, {...options, endpoint: ENDPOINT, emitTokens: Boolean(onText)});
    try {
      if (onText) for await (const {text} of run.tokens) onText(text);
      const {text, finishReason, usage, parsed} = await run;
      return {text, finishReason, usage, parsed};
    } finally {
      run.cancel("nobody waits for it"); // does nothing where it is complete
    }
  }

  async unload() {
    const client = this.#client;
    this.#client = null;
    await client?.close();
  }

  #open() {
    this.#client ??= new SippClient(this.#options);
    return this.#client;
  }
}

/** One model. */
export class LocalLLM {
  #engine;
  #model;
  #system;
  #options;
  #loading = null; // {promise, cancel} of the load that counts

  /**
   * @param {{model?: string, engine?: object, system?: string}} [options] `model`: a name of the registry, whose
   *   default is taken where it isn't given; `engine`: another plug; `system`; and sampling options of every answer
   */
  constructor(given) {
    const {model, engine, system, ...options} = optionsOf(given);
    this.#engine = optionsOf(engine ?? new SippEngine(), "engine");
    this.#model = model;
    this.#system = system;
    this.#options = options;
    /** The status, for whoever watches it. @type {Store} */
    this.status = new Store(IDLE);
  }

  /** Whether the engine can run here, and why not. @returns {Promise<{supported: boolean, reason: string}>} */
  isSupported() {
    return this.#engine.isSupported();
  }

  /** The models that can be named, for pickers. @returns {Promise<object[]>} */
  async models() {
    return (await this.#engine.registry()).models;
  }

  /** Whether loading needs no download. @returns {Promise<boolean>} */
  async hasModelInCache() {
    return this.#engine.hasModel(await this.#name());
  }

  /** Call `callback` with the status now and at every change. @returns {() => void} ends it */
  onStatusChange(callback) {
    if (!callbackOf(callback, "callback")) throw invalid("callback", "callback must be a function.", "Give one.");
    return this.status.subscribe(callback);
  }

  /** Make the model ready. Does nothing where it is; joins a load that is under way; tries again after a failure. */
  load() {
    this.#loading ??= this.#begin();
    return this.#loading.promise;
  }

  /**
   * Answer a conversation; loads the model first where that is needed.
   * @param {object[]} messages
   * @param {{onText?: (text: string) => void}} [options] and the Python `TextOptions` in camelCase
   * @returns {Promise<{text: string, finishReason: string, usage: object}>}
   */
  async generate(messages, given) {
    const {onText, ...options} = optionsOf(given);
    callbackOf(onText, "onText");
    listOf(messages, "messages");
    await this.load();
    const told = this.#system && !messages.some((message) => message?.role === "system");
    const all = told ? [{role: "system", content: this.#system}, ...messages] : messages;
    return this.#engine.generate(all, {...this.#options, ...options}, onText ?? null);
  }

  /** The answer to one question. @param {string} text @param {object} [options] @returns {Promise<string>} */
  async prompt(text, options) {
    return (await this.generate([{role: "user", content: text}], options)).text;
  }

  /**
   * Data from a text, in the shape of a JSON schema.
   * @param {string} text
   * @param {object} schema
   * @param {{instruction?: string}} [options] and those of `generate`
   */
  async extractJson(text, schema, given) {
    const {instruction = EXTRACT, ...options} = optionsOf(given);
    if (schema === undefined || schema === null) throw invalid("schema", "extractJson needs a JSON schema.", "Give one.");
    const messages = [{role: "system", content: instruction}, {role: "user", content: text}];
    const answer = await this.generate(messages, {temperature: 0, ...options, jsonSchema: schema});
    if (answer.finishReason !== "stop") {
      throw new SippError({
        code: "schema_mismatch", message: `The answer was cut off (${answer.finishReason}).`,
        hint: "Raise maxTokens, or give a shorter text.", details: {text: answer.text},
      });
    }
    return answer.parsed;
  }

  /** The label that fits a text best; always one of `labels`. @param {string} text @param {string[]} labels */
  async classify(text, labels, options) {
    if (!Array.isArray(labels) || !labels.length || !labels.every((label) => label && typeof label === "string")) {
      throw invalid("labels", "labels must be a list of texts that is not empty.");
    }
    const instruction = CLASSIFY.replace("{labels}", () => labels.map((label) => JSON.stringify(label)).join(", "));
    return this.extractJson(text, {enum: labels}, {...optionsOf(options), instruction});
  }

  /** Free the memory; a load under way is stopped. Safe to call twice. */
  async unload() {
    this.#loading?.cancel();
    this.#loading = null;
    await this.#engine.unload();
    this.status.set(IDLE);
  }

  /** A load whose promise ends at once when it is cancelled, whatever the engine is at. */
  #begin() {
    const load = {};
    const cancelled = new Promise((_, reject) => {
      load.cancel = () => reject(new SippError({
        code: "cancelled", message: "The model was unloaded while it was loading.", hint: "Call load() again.",
      }));
    });
    load.promise = Promise.race([cancelled, this.#load(() => this.#loading === load)]);
    load.promise.catch(() => {}); // whoever waits for it hears it
    return load;
  }

  async #load(mine) {
    await null; // until it counts
    try {
      const tell = (status) => {
        // "ready" and "error" are told once, when everything is over.
        if (mine() && status.state !== "ready" && status.state !== "error") this.status.set(status);
      };
      await this.#engine.load(await this.#name(), tell);
      if (mine()) this.status.set({...IDLE, state: "ready", text: "Ready."});
    } catch (error) {
      if (mine()) {
        this.#loading = null;
        this.status.set({...IDLE, state: "error", text: error.message});
      }
      throw error;
    }
  }

  async #name() {
    this.#model ??= (await this.#engine.registry()).defaultModel;
    return this.#model;
  }
}
