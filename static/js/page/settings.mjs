/** Instructions, sampling and context size: the model's own values unless the user gave others. */

import {byId, el} from "./dom.mjs";

/** What no model says itself; the rest is the engine's choice. Small models may never come to an end. */
const DEFAULTS = {maxTokens: 1024};

/** @type {{name: string, label: string, hint: string, min: number, max: number, step: number | "any"}[]} */
const SAMPLING = [
  {name: "temperature", label: "Temperature", hint: "Higher is more surprising; 0 always takes the likeliest word.",
    min: 0, max: 5, step: "any"},
  {name: "topP", label: "Top P", hint: "Choose among the likeliest words that add up to this share.", min: 0, max: 1,
    step: "any"},
  {name: "topK", label: "Top K", hint: "Choose among this many likeliest words; 0 is all.", min: 0, max: 1000, step: 1},
  {name: "minP", label: "Min P", hint: "Leave out words below this share of the likeliest one.", min: 0, max: 1,
    step: "any"},
  {name: "repeatPenalty", label: "Repeat penalty", hint: "Above 1 discourages repetition.", min: 0, max: 10, step: "any"},
  {name: "maxTokens", label: "Longest answer", hint: "In tokens.", min: 1, max: 1_000_000, step: 1},
  {name: "seed", label: "Seed", hint: "A number makes answers repeatable; empty is random.", min: 0, max: 4_294_967_294,
    step: 1},
];

const CONTEXT = {name: "nCtx", label: "Context size", min: 128, max: 1_000_000, step: 1,
  hint: "Tokens that the model can look back on. Takes memory; used when a model is loaded."};

/** What an empty field means, where there is no number for it. @type {Record<string, string>} */
const UNSET = {seed: "random", nCtx: "auto"};

const KEY = "sippet.settings";

/** @typedef {import("./engine.mjs").Choice} Choice */

export class Settings {
  /** What the user changed: model name → option → number. @type {Record<string, Record<string, number>>} */
  #changed;
  /** @type {Choice | null} */
  #choice = null;

  /** @param {{onSystemPrompt: (text: string) => void}} handlers */
  constructor({onSystemPrompt}) {
    this.#changed = read();
    this.dialog = byId("settings-dialog");
    this.prompt = byId("system-prompt");
    this.forNew = byId("system-prompt-default");
    this.fields = byId("sampling");
    this.forModel = byId("sampling-model");
    this.fields.append(...[...SAMPLING, CONTEXT].map((option) => this.#field(option)));
    byId("reset-sampling").addEventListener("click", () => this.#reset());
    this.prompt.addEventListener("input", () => {
      onSystemPrompt(this.prompt.value);
      this.#rememberPrompt();
    });
    this.forNew.addEventListener("change", () => this.#rememberPrompt());
    const theme = byId("theme");
    theme.value = document.documentElement.dataset.theme ?? "";
    theme.addEventListener("change", () => {
      document.documentElement.dataset.theme = theme.value;
      localStorage.setItem("sippet.theme", theme.value);
    });
  }

  /** Instructions that new conversations begin with. */
  get defaultPrompt() {
    return localStorage.getItem("sippet.system-prompt") ?? "";
  }

  /** @param {string} systemPrompt of the conversation that is shown */
  show(systemPrompt) {
    this.prompt.value = systemPrompt;
    this.forNew.checked = systemPrompt !== "" && systemPrompt === this.defaultPrompt;
    this.#fill();
    this.dialog.showModal();
  }

  /** The model that the values are for. @param {Choice | null} choice */
  set choice(choice) {
    this.#choice = choice;
    this.#fill();
  }

  /** Options for a request. @returns {Record<string, number>} */
  get sampling() {
    const {nCtx, ...changed} = this.#mine;
    return {...this.#defaults, ...changed};
  }

  /** Options for loading this model. @param {Choice} choice @returns {{nCtx?: number}} */
  contextFor({name}) {
    const {nCtx} = this.#changed[name] ?? {};
    return nCtx ? {nCtx} : {};
  }

  get #defaults() {
    return {...DEFAULTS, ...this.#choice?.listed?.sampling};
  }

  get #mine() {
    return this.#changed[this.#choice?.name ?? ""] ?? {};
  }

  /** @param {any} option */
  #field({name, label, hint, min, max, step}) {
    const id = `option-${name}`;
    const input = el("input", {type: "number", id, name, min, max, step, inputmode: "decimal",
      "aria-describedby": `${id}-hint`});
    input.addEventListener("change", () => this.#set(input));
    return el("div", {class: "option"}, el("label", {for: id, text: label}), input,
      el("p", {class: "hint", id: `${id}-hint`, text: hint}));
  }

  /** @param {HTMLInputElement} input */
  #set(input) {
    const wrong = !input.validity.valid;
    input.setAttribute("aria-invalid", String(wrong));
    if (wrong) return input.reportValidity();
    const name = this.#choice?.name ?? "";
    const mine = {...this.#mine};
    if (input.value === "") delete mine[input.name];
    else mine[input.name] = Number(input.value);
    this.#changed[name] = mine;
    localStorage.setItem(KEY, JSON.stringify(this.#changed));
  }

  #reset() {
    delete this.#changed[this.#choice?.name ?? ""];
    localStorage.setItem(KEY, JSON.stringify(this.#changed));
    this.#fill();
  }

  #fill() {
    this.forModel.textContent = this.#choice ? `for ${this.#choice.name}` : "";
    /** @type {Record<string, number>} */
    const defaults = this.#defaults;
    for (const input of this.fields.querySelectorAll("input")) {
      input.value = this.#mine[input.name] ?? "";
      input.placeholder = String(defaults[input.name] ?? UNSET[input.name] ?? "default");
      input.setAttribute("aria-invalid", "false");
    }
  }

  #rememberPrompt() {
    if (this.forNew.checked) localStorage.setItem("sippet.system-prompt", this.prompt.value);
    else if (this.prompt.value === this.defaultPrompt) localStorage.removeItem("sippet.system-prompt");
  }
}

/** What was stored, as far as it is sound. */
function read() {
  try {
    const stored = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    const known = new Set([...SAMPLING, CONTEXT].map(({name}) => name));
    return Object.fromEntries(Object.entries(stored).map(([model, options]) => [model,
      Object.fromEntries(Object.entries(options ?? {}).filter(([name, value]) =>
        known.has(name) && typeof value === "number" && Number.isFinite(value)))]));
  } catch {
    return {};
  }
}
