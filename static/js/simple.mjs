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
  constructor({runtime, ...options} = {}) {
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
    if (onText) for await (const {text} of run.tokens) onText(text);
    const {text, finishReason, usage, parsed} = await run;
    return {text, finishReason, usage, parsed};
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
  #loading = null;
  #loads = 0;

  /**
   * @param {{model?: string, engine?: object, system?: string}} [options] `model`: a name of the registry, whose
   *   default is taken where it isn't given; `engine`: another plug; `system`; and sampling options of every answer
   */
  constructor({model, engine = new SippEngine(), system, ...options} = {}) {
    this.#engine = engine;
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
    return this.status.subscribe(callback);
  }

  /** Make the model ready. Does nothing where it is; joins a load that is under way; tries again after a failure. */
  load() {
    this.#loading ??= this.#load(++this.#loads);
    return this.#loading;
  }

  /**
   * Answer a conversation; loads the model first where that is needed.
   * @param {object[]} messages
   * @param {{onText?: (text: string) => void}} [options] and the Python `TextOptions` in camelCase
   * @returns {Promise<{text: string, finishReason: string, usage: object}>}
   */
  async generate(messages, {onText = null, ...options} = {}) {
    await this.load();
    const told = this.#system && !messages.some(({role}) => role === "system");
    const all = told ? [{role: "system", content: this.#system}, ...messages] : messages;
    return this.#engine.generate(all, {...this.#options, ...options}, onText);
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
  async extractJson(text, schema, {instruction = EXTRACT, ...options} = {}) {
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
  async classify(text, labels, options = {}) {
    const instruction = CLASSIFY.replace("{labels}", () => labels.map((label) => JSON.stringify(label)).join(", "));
    return this.extractJson(text, {enum: labels}, {...options, instruction});
  }

  /** Free the memory; a load under way is stopped. Safe to call twice. */
  async unload() {
    this.#loads++; // a load under way is no longer ours
    this.#loading = null;
    await this.#engine.unload();
    this.status.set(IDLE);
  }

  async #load(number) {
    const mine = () => number === this.#loads;
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
