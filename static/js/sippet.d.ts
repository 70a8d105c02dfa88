/** Types of `sippet.mjs`: the Python API in camelCase. A test holds them against the Python side. */

export type Kind = "local" | "gateway" | "provider";
export type FinishReason = "stop" | "length" | "tool_calls" | "cancelled" | "error";
export type EndpointId = string | EndpointRef;
export type Json = null | boolean | number | string | Json[] | {[key: string]: Json};
export type ModelSource = string | Blob | (string | Blob)[];
export type ImageSource = string | Blob | ArrayBuffer | Uint8Array;

export interface ClientOptions {
  executionMode?: "auto" | "worker" | "main-thread";
  wasmThreading?: "auto" | "pthread" | "single-thread";
  engine?: "auto" | "sippet" | "wllama";
  moduleUrl?: string;
  wasmUrl?: string;
  workerUrl?: string;
  trustedOrigins?: string[];
  browserCache?: boolean;
}

export interface SamplingOptions {
  temperature?: number;
  topP?: number;
  topK?: number;
  minP?: number;
  seed?: number;
  repeatPenalty?: number;
  presencePenalty?: number;
  frequencyPenalty?: number;
  logitBias?: {[token: string]: number};
  samplers?: string[];
  repeatLastN?: number;
  typicalP?: number;
  topNSigma?: number;
  xtcProbability?: number;
  xtcThreshold?: number;
  dynatempRange?: number;
  dynatempExponent?: number;
  dryMultiplier?: number;
  dryBase?: number;
  dryAllowedLength?: number;
  dryPenaltyLastN?: number;
  drySequenceBreakers?: string[];
  mirostat?: number;
  mirostatTau?: number;
  mirostatEta?: number;
  minKeep?: number;
  ignoreEos?: boolean;
}

export interface TextOptions extends SamplingOptions {
  maxTokens?: number;
  stop?: string | string[];
  logprobs?: number;
  emitTokens?: boolean;
  tools?: object[];
  toolChoice?: "auto" | "none" | "required" | object;
  parallelToolCalls?: boolean;
  grammar?: string;
  jsonSchema?: object;
  contextKey?: string;
  media?: ImageSource[];
  lora?: {[adapter: number]: number};
  templateKwargs?: {[name: string]: Json};
  endpointOptions?: {[name: string]: Json};
  providerOptions?: {[name: string]: Json};
}

export interface EmbedOptions {
  normalize?: boolean;
}

/** What every request takes besides its own options. */
export interface RequestOptions {
  endpoint?: EndpointId;
  signal?: AbortSignal;
}

export interface ContextConfig {
  nCtx?: number;
  nBatch?: number;
  nUbatch?: number;
  nParallel?: number;
  nThreads?: number;
  nThreadsBatch?: number;
  flashAttention?: "auto" | "enabled" | "disabled";
  kvUnified?: boolean;
  cacheTypeK?: CacheType;
  cacheTypeV?: CacheType;
  swaFull?: boolean;
  ropeScaling?: "none" | "linear" | "yarn";
  ropeFreqBase?: number;
  ropeFreqScale?: number;
  yarnOrigCtx?: number;
  yarnExtFactor?: number;
  yarnAttnFactor?: number;
  yarnBetaFast?: number;
  yarnBetaSlow?: number;
  embeddings?: boolean;
  pooling?: "mean" | "cls" | "last";
  chatTemplate?: string;
  warmup?: boolean;
}

export type CacheType = "f32" | "f16" | "q8_0" | "q4_0" | "q4_1" | "q5_0" | "q5_1" | "iq4_nl";

export interface SamplingConfig extends SamplingOptions {}

export interface SchedulerConfig {
  maxQueuedRequests?: number;
  maxRunningRequests?: number;
  continuousBatching?: boolean;
}

export interface CacheConfig {
  promptCache?: boolean;
  contextShift?: boolean;
  nKeep?: number;
  nCacheReuse?: number;
}

export interface PlacementConfig {
  nGpuLayers?: number;
  mainGpu?: number;
  splitMode?: "none" | "layer" | "row";
  tensorSplit?: number[];
}

export interface MultimodalConfig {
  imageMinTokens?: number;
  imageMaxTokens?: number;
  projectorOnGpu?: boolean;
}

export interface ResidencyConfig {
  unloadAfter?: number;
}

export interface ObservabilityConfig {
  runtimeMetrics?: boolean;
}

export interface RuntimeConfig {
  context?: ContextConfig;
  sampling?: SamplingConfig;
  scheduler?: SchedulerConfig;
  cache?: CacheConfig;
  placement?: PlacementConfig;
  multimodal?: MultimodalConfig;
  residency?: ResidencyConfig;
  observability?: ObservabilityConfig;
}

export interface LocalModel {
  kind?: "local";
  source: ModelSource;
  projector?: string | Blob;
  backend?: "auto" | "cpu" | "webgpu";
  runtime?: RuntimeConfig;
  lora?: (string | Blob)[];
  onProgress?: (status: Status) => void;
  signal?: AbortSignal;
}

/** A credential, or a function of the page that gives it: called at each request, so that it can be renewed. */
export type Secret = string | (() => string | Promise<string>);

export type Authentication =
  | {type: "none"}
  | {type: "bearer"; token: Secret}
  | {type: "header"; name: string; value: Secret};

export interface RemoteFields {
  headers?: {[name: string]: string};
  timeout?: number;
  connectTimeout?: number;
  idleTimeout?: number;
  retries?: number;
  maxConcurrentRequests?: number;
  maxQueuedRequests?: number;
  allowInsecure?: boolean;
  signal?: AbortSignal;
}

export interface Gateway extends RemoteFields {
  kind: "gateway";
  target: string;
  baseUrl: string;
  authentication?: Authentication;
  server?: "openai" | "sippet" | "llama.cpp" | "vllm";
}

export interface Provider extends RemoteFields {
  kind: "provider";
  provider: "openai" | "openai_compatible" | "anthropic";
  model: string;
  apiKey?: Secret;
  baseUrl?: string;
}

export interface EngineInfo {
  backend: "wasm" | "native" | "remote";
  accelerator: string;
  threads: number | null;
  nCtx: number | null;
  nParallel: number;
  nVocab: number | null;
  nEmbd: number | null;
  loadMs: number | null;
  hasChatTemplate: boolean | null;
  hasVision: boolean | null;
  embeds: boolean | null;
  pooling: string | null;
  mediaMarker: string | null;
  engine: string;
  metadata: {[key: string]: string};
  degraded: string[];
}

export interface EndpointRef {
  kind: Kind;
  id: string;
  info: EngineInfo | null;
}

export interface Status {
  state: "idle" | "checking" | "downloading" | "loading" | "ready" | "error";
  text: string;
  bytes: number;
  total: number | null;
  rate: number | null;
  eta: number | null;
  waiting: boolean;
}

export interface ChatMessage {
  role: "system" | "user" | "assistant" | "tool" | "developer";
  content?: string | object[];
  /** Of an assistant: the calls that it makes, OpenAI-shaped. */
  tool_calls?: object[];
  /** Of a tool: the `id` of the call that this answers. */
  tool_call_id?: string;
}

export interface Usage {
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
}

export interface Timings {
  prefillMs: number | null;
  timeToFirstTokenMs: number | null;
  decodeMs: number | null;
  totalMs: number | null;
  prefillTokensPerSecond: number | null;
  tokensPerSecond: number | null;
}

export interface TokenLogprob {
  token: string;
  logprob: number;
  top: [string, number][];
  id: number | null;
}

export interface TextResult {
  text: string;
  finishReason: FinishReason;
  usage: Usage;
  timings: Timings;
  endpoint: string;
  toolCalls: object[];
  reasoning: string;
  cancelReason: string | null;
  parsed: Json;
  logprobs: TokenLogprob[];
}

export interface TokenBatch {
  text: string;
  reasoning: string;
  index: number;
}

export interface EmbedResult {
  embeddings: number[][];
  dimensions: number;
  pooling: string | null;
  normalized: boolean;
  usage: Usage;
  endpoint: string;
}

export interface RankedDocument {
  index: number;
  score: number;
  document: string;
}

export interface RerankResult {
  ranking: RankedDocument[];
  usage: Usage;
  endpoint: string;
}

export interface ToolsResult {
  text: string;
  finishReason: FinishReason;
  messages: object[];
  steps: TextResult[];
  usage: Usage;
  endpoint: string;
}

export interface Tool {
  name: string;
  description?: string;
  parameters?: object;
  call: (args: any) => any;
}

export interface ToolsOptions extends TextOptions, RequestOptions {
  maxSteps?: number;
  /** Python source whose functions are tools too, run in the runtime. */
  python?: string;
  onTokens?: (batch: TokenBatch) => void;
  onStep?: (message: object) => void;
}

/** What events of each type carry besides `type` and `endpoint`. */
export interface EventFields {
  /** Of an endpoint, or of the client where `endpoint` is null. */
  state: {state: "starting" | "loading" | "ready" | "unloaded" | "failed" | "closed"};
  progress: {status: Status};
  ready: {};
  degraded: {reason: string};
  request_started: {};
  /** The fields are there where text was generated; `metrics` with `observability.runtimeMetrics`. */
  request_completed: {finishReason?: FinishReason; usage?: Usage; timings?: Timings; metrics?: RunMetrics};
  request_failed: {error: SippError};
  closed: {};
}

export interface RunMetrics {
  queueMs: number | null;
  interTokenP50Ms: number | null;
  interTokenP99Ms: number | null;
}

export type ClientEvent = {
  [T in keyof EventFields]: {type: T; endpoint: string | null} & EventFields[T];
}[keyof EventFields];

export interface Environment {
  name: string;
  isolated: boolean;
  sharedMemory: boolean;
  uiThread: boolean;
  wasmMemory: number | null;
  simd: boolean;
  relaxedSimd: boolean;
  memory64: boolean;
  suspending: boolean;
  gpu: boolean;
  cores: number;
  deviceMemory: number | null;
}

export class SippError extends Error {
  code: string;
  summary: string;
  hint: string;
  details: {[name: string]: Json};
  toJSON(): {code: string; message: string; hint: string; details: object};
}

export class Run<R> implements PromiseLike<R> {
  response: Promise<R>;
  cancel(reason?: string): void;
  then: Promise<R>["then"];
  catch: Promise<R>["catch"];
  finally: Promise<R>["finally"];
}

export class TextRun extends Run<TextResult> {
  readonly tokens: AsyncIterable<TokenBatch>;
}

export class Installation extends Run<InstalledModel> {
  pause(): Promise<void>;
  resume(): Promise<void>;
}

export interface InstalledModel {
  id: string;
  name: string;
  size: number;
  installed: number;
  used: number;
  persisted: boolean;
  [fact: string]: any;
}

export interface InstallOptions {
  id?: string;
  name?: string;
  projector?: string | Blob;
  evict?: boolean;
  onProgress?: (status: Status) => void;
  signal?: AbortSignal;
}

export class Models {
  add(source: ModelSource, options?: InstallOptions): Installation;
  list(): Promise<InstalledModel[]>;
  get(id: string): Promise<InstalledModel>;
  remove(id: string): Promise<number>;
  verify(id: string, options?: {repair?: boolean; onProgress?: (status: Status) => void; signal?: AbortSignal}):
    Promise<{chunks: number; bad: [string, number][]; repaired: boolean; sound: boolean}>;
  estimate(source: ModelSource, options?: {projector?: string | Blob; context?: ContextConfig; signal?: AbortSignal}):
    Promise<Estimate>;
  storage(): Promise<{[fact: string]: any}>;
  registry(): Promise<{models: object[]; defaultModel: string}>;
  removeUnfinished(): Promise<number>;
  memoryLimit(): Promise<{nbytes: number; reason: string}>;
  persist(): Promise<boolean>;
}

export interface Estimate {
  manifest: {[fact: string]: any};
  /** Bytes that are still to be fetched; null where the server doesn't say. */
  download: number | null;
  storage: {usage: number; quota: number | null; persisted: boolean};
  enoughStorage: boolean;
  memory: MemoryPlan;
}

/** What a model needs, in bytes, and whether that fits here. */
export interface MemoryPlan {
  weights: number;
  kvCache: number;
  compute: number;
  overhead: number;
  total: number;
  nCtx: number;
  /** The largest context that fits; 0 where none does. */
  maxNCtx: number;
  limit: {nbytes: number; reason: string};
  verdict: "fits" | "fits_smaller" | "too_large";
  /** The verdict in a sentence, with its numbers. */
  text: string;
}

export class SippClient {
  constructor(options?: ClientOptions);
  /** Resolves when Python is ready. */
  ready: Promise<Environment>;
  readonly state: "starting" | "ready" | "loading" | "failed" | "closed";
  readonly endpoints: EndpointRef[];
  readonly models: Models;
  subscribe(listener: (event: ClientEvent) => void): () => void;
  add(id: string, descriptor: LocalModel | Gateway | Provider): Promise<EndpointRef>;
  remove(id: EndpointId): Promise<void>;
  query(prompt: string, options?: TextOptions & RequestOptions): TextRun;
  chat(messages: (ChatMessage | object)[], options?: TextOptions & RequestOptions): TextRun;
  embed(input: string | string[], options?: EmbedOptions & RequestOptions): Run<EmbedResult>;
  rerank(query: string, documents: string[], options?: {topN?: number} & RequestOptions): Run<RerankResult>;
  tokenize(text: string, options?: {addSpecial?: boolean; parseSpecial?: boolean} & RequestOptions): Promise<number[]>;
  detokenize(tokens: number[], options?: RequestOptions): Promise<string>;
  applyTemplate(messages: (ChatMessage | object)[], options?: RequestOptions): Promise<string>;
  /** Resolves to the bytes that it takes. */
  saveContext(key: string, options?: RequestOptions): Promise<number>;
  forgetContext(key: string, options?: RequestOptions): Promise<void>;
  runTools(messages: (ChatMessage | object)[], tools?: Tool[], options?: ToolsOptions): Run<ToolsResult>;
  close(): Promise<void>;
}

export function environment(): Promise<{[name: string]: any}>;
