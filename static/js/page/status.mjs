/** The status line: what is isolated, threaded and accelerated; why not where not, and what to do about it. */

import {byId, el} from "./dom.mjs";
import {latency, plural} from "./format.mjs";

/**
 * Why it can't be faster here, as far as it shows before a model is loaded; afterwards the engine says it itself.
 * @param {any} environment
 * @returns {string[]}
 */
function shortcomings(environment) {
  if (!environment.isolated) {
    return ["This page is not cross-origin isolated, so the engine has one thread and is several times slower than it "
      + "could be. Open it under https or localhost, and serve it with the headers Cross-Origin-Opener-Policy: "
      + "same-origin and Cross-Origin-Embedder-Policy: require-corp (`sippet serve` does, without --no-isolation)."];
  }
  if (!environment.sharedMemory) {
    return ["This browser shares no WebAssembly memory between threads, so the engine has one thread. A current "
      + "Chromium or Firefox has it."];
  }
  return [];
}

/**
 * What the line and the panel say about this state.
 *
 * @param {import("./engine.mjs").Engine} engine
 * @param {{version?: string}} config
 */
export function summarize(engine, config) {
  const {environment, info} = engine;
  const isolated = environment?.isolated ?? globalThis.crossOriginIsolated === true;
  const reasons = [...(info?.degraded ?? (environment ? shortcomings(environment) : []))];

  let state = "Starting Python";
  let tone = "busy";
  if (engine.runtime === "failed") [state, tone] = ["Python could not start", "bad"];
  else if (engine.model === "loading") [state, tone] = ["Loading the model", "busy"];
  else if (engine.model === "ready") [state, tone] = ["Ready", reasons.length ? "warn" : "good"];
  else if (engine.runtime === "ready") [state, tone] = ["No model yet", "idle"];

  const parts = [state, isolated ? "isolated" : "not isolated"];
  if (info?.threads) parts.push(plural(info.threads, "thread"));
  if (info?.accelerator) parts.push(acceleratorName(info.accelerator));

  /** @type {[string, any][]} */
  const rows = [
    ["State", state],
    ["Cross-origin isolation", isolated ? "Yes" : "No: one thread only"],
    ["Threads", info?.threads && (environment ? `${info.threads} of ${environment.cores} cores` : info.threads)],
    ["Computes on", info?.accelerator && acceleratorName(info.accelerator)],
    ["WebGPU", environment && (environment.gpu ? "Available" : "No adapter in this browser")],
    ["WebAssembly", environment && features(environment)],
    ["Model", info && engine.choice?.name],
    ["Context", info?.nCtx && plural(info.nCtx, "token")],
    ["Loaded in", info?.loadMs && latency(info.loadMs)],
    ["Engine", info?.engine],
    ["Sippet", config.version],
  ];
  return {line: parts.join(" · "), tone, rows: rows.filter(([, value]) => value), reasons};
}

/** @param {any} environment */
function features({simd, relaxedSimd, sharedMemory, memory64}) {
  const known = [simd && "SIMD", relaxedSimd && "relaxed SIMD", sharedMemory && "threads", memory64 && "64-bit memory"];
  return known.filter(Boolean).join(", ");
}

/** @param {string} accelerator */
function acceleratorName(accelerator) {
  return accelerator === "webgpu" ? "WebGPU" : "CPU";
}

export class StatusView {
  /**
   * @param {import("./engine.mjs").Engine} engine
   * @param {{version?: string}} config
   */
  constructor(engine, config) {
    this.engine = engine;
    this.config = config;
    this.button = byId("status");
    this.text = byId("status-text");
    this.dialog = byId("status-dialog");
    this.body = byId("status-body");
    this.button.addEventListener("click", () => this.dialog.showModal());
    engine.addEventListener("change", () => this.update());
    this.update();
  }

  update() {
    const {line, tone, rows, reasons} = summarize(this.engine, this.config);
    this.text.textContent = line;
    this.button.dataset.tone = tone;
    this.body.replaceChildren(
      el("dl", {class: "facts"}, ...rows.map(([name, value]) =>
        el("div", {}, el("dt", {text: name}), el("dd", {text: value})))),
      reasons.length
        ? el("div", {class: "reasons"}, el("h3", {text: "What holds it back here"}),
          el("ul", {}, ...reasons.map((reason) => el("li", {text: reason}))))
        : "",
    );
  }
}

/** How full the model's context is. */
export class ContextMeter {
  constructor() {
    this.root = byId("context");
    this.meter = byId("context-meter");
    this.text = byId("context-text");
  }

  /**
   * @param {number} used tokens of the last prompt and its answer
   * @param {number | undefined} size
   */
  show(used, size) {
    this.root.hidden = !used || !size;
    if (!used || !size) return;
    const share = Math.min(1, used / size);
    this.meter.value = share;
    this.text.textContent = `${Math.round(share * 100)} %`;
    this.root.title = `${plural(used, "token")} of ${plural(size, "token")}`
      + (share > 0.85 ? ". Nearly full: begin a new chat, or load the model with a larger context." : "");
  }
}
