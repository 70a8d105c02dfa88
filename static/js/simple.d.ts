/** Types of `simple.mjs`: Python's `sippet.simple` in camelCase. A test holds them against the Python side. */

import type {
  ChatMessage, ClientOptions, FinishReason, Json, RuntimeConfig, Status, TextOptions, Usage,
} from "./sippet.d.ts";

export const EXTRACT: string;
export const CLASSIFY: string;

export interface Support {
  supported: boolean;
  /** Why not. */
  reason: string;
}

export interface Generation {
  text: string;
  finishReason: FinishReason;
  usage: Usage;
  /** The value of a whole answer that was asked for with `jsonSchema`. */
  parsed?: Json;
}

/** The models that can be named. */
export interface Registry {
  models: {id: string; [fact: string]: any}[];
  defaultModel: string;
}

/** What makes another engine a plug for `LocalLLM`. */
export interface SimpleEngine {
  isSupported(): Promise<Support>;
  registry(): Promise<Registry>;
  hasModel(model: string): Promise<boolean>;
  load(model: string, onStatus: (status: Status) => void): Promise<void>;
  generate(messages: (ChatMessage | object)[], options: TextOptions, onText: ((text: string) => void) | null):
    Promise<Generation>;
  unload(): Promise<void>;
}

/** The methods of `SimpleEngine`. */
export interface SippEngine extends SimpleEngine {}
export class SippEngine {
  constructor(options?: ClientOptions & {runtime?: RuntimeConfig});
}

/** A value and those who watch it: a store by Svelte's contract. */
export class Store<T> {
  constructor(value: T);
  get: () => T;
  /** Calls `watcher` with the value now and at every change. Returns what ends it. */
  subscribe: (watcher: (value: T) => void) => () => void;
  set(value: T): void;
}

export interface LocalLLMOptions extends TextOptions {
  model?: string;
  engine?: SimpleEngine;
  system?: string;
}

export interface GenerateOptions extends TextOptions {
  onText?: ((text: string) => void) | null;
}

export class LocalLLM {
  constructor(options?: LocalLLMOptions);
  readonly status: Store<Status>;
  isSupported(): Promise<Support>;
  models(): Promise<Registry["models"]>;
  hasModelInCache(): Promise<boolean>;
  onStatusChange(callback: (status: Status) => void): () => void;
  load(): Promise<void>;
  generate(messages: (ChatMessage | object)[], options?: GenerateOptions): Promise<Generation>;
  prompt(text: string, options?: GenerateOptions): Promise<string>;
  extractJson(text: string, schema: object, options?: GenerateOptions & {instruction?: string}): Promise<any>;
  classify(text: string, labels: string[], options?: GenerateOptions): Promise<string>;
  unload(): Promise<void>;
}
