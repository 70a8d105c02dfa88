/** Choosing a model: a listed one, a file of one's own, or a URL. Nothing is fetched before a button says so. */

import {el, iconButton} from "./dom.mjs";
import {amount, bytes, count} from "./format.mjs";
import {icon} from "./icons.mjs";

let instances = 0;

/**
 * @param {File[]} files the parts of one model, in any order, and perhaps its projector
 * @returns {import("./engine.mjs").Choice}
 */
export function choiceFromFiles(files) {
  const projector = files.length > 1 ? files.find(({name}) => /mmproj/i.test(name)) : undefined;
  const parts = files.filter((file) => file !== projector);
  parts.sort((a, b) => a.name.localeCompare(b.name, "en", {numeric: true}));
  const name = parts[0].name.replace(/(-\d{5}-of-\d{5})?\.gguf$/i, "");
  return {name, source: parts.length === 1 ? parts[0] : parts, projector};
}

/**
 * @param {string} address
 * @returns {import("./engine.mjs").Choice}
 * @throws {TypeError} when it is not an address
 */
export function choiceFromUrl(address) {
  const url = new URL(address, location.href);
  if (!/^https?:$/.test(url.protocol)) throw new TypeError("only http and https addresses work");
  const file = decodeURIComponent(url.pathname.split("/").pop() ?? "");
  return {name: file.replace(/\.gguf$/i, "") || url.host, source: url.href};
}

/** Whether a model can, as far as is known. @param {any} model @param {string} what */
function can({capabilities}, what) {
  return capabilities.length === 0 || capabilities.includes(what);
}

/** Whether a listed model is the one that is kept. @param {any} listed @param {any} kept */
function isSame(listed, kept) {
  const [mine, theirs] = [listed.files, kept.files].map((files) => files[0].sha256);
  return listed.id === kept.id && (!mine || !theirs || mine === theirs);
}

/**
 * @typedef {object} PickerOptions
 * @property {any[]} models those that the server lists
 * @property {string} [defaultModel]
 * @property {(choice: import("./engine.mjs").Choice) => void} onChoose
 * @property {(model: any) => void} onKeep
 * @property {(model: any) => void} onDiscard
 */

export class ModelPicker {
  /**
   * @param {HTMLElement} root
   * @param {PickerOptions} options
   */
  constructor(root, options) {
    this.options = options;
    this.onChoose = options.onChoose;
    this.prefix = `picker-${++instances}`;
    this.list = el("ul", {class: "model-list"});
    this.kept = [];
    /** @type {{nbytes: number, reason: string} | null} */
    this.memory = null;
    root.replaceChildren(
      this.list,
      el("h3", {class: "picker-heading", text: "Or bring your own"}),
      el("div", {class: "picker-own"}, this.#files(), this.#url()),
    );
    this.#show();
  }

  /** The models that are kept in this browser. @param {any[]} kept */
  show(kept) {
    this.kept = kept;
    this.#show();
  }

  /** What a model may take here. @param {{nbytes: number, reason: string}} limit */
  limit(limit) {
    this.memory = limit;
    this.#show();
  }

  /** Whether a model fits into memory, where that is known. @param {any} model */
  #fit({memory: needed}) {
    if (!needed || !this.memory) return null;
    const numbers = `It takes ${bytes(needed)} of memory with its usual context; ${this.memory.reason} allows `
      + `${bytes(this.memory.nbytes)}.`;
    return needed <= this.memory.nbytes
      ? el("span", {class: "badge", title: numbers, text: "Fits this device"})
      : el("span", {class: "badge bad", title: numbers, text: "Too large for this device"});
  }

  #show() {
    const {models, defaultModel} = this.options;
    const listed = models.filter((model) => can(model, "completion") || can(model, "chat"));
    listed.sort((a, b) => Number(b.id === defaultModel) - Number(a.id === defaultModel));
    const others = this.kept.filter((kept) => can(kept, "chat") && !listed.some((model) => isSame(model, kept)));
    const focused = this.list.contains(document.activeElement) ? document.activeElement?.id : "";
    this.list.replaceChildren(
      ...listed.map((model) => this.#card(model, this.kept.some((kept) => isSame(model, kept)))),
      ...others.map((model) => this.#card(model, true)));
    if (focused) document.getElementById(focused)?.focus();
  }

  /** @param {any} model @param {boolean} kept */
  #card(model, kept) {
    const {defaultModel, onKeep, onDiscard} = this.options;
    const preferred = model.id === defaultModel;
    const title = `${this.prefix}-${model.id}`;
    const size = model.size && (kept ? bytes(model.size) : `${bytes(model.size)} download`);
    const facts = [model.parameters && `${amount(model.parameters)} parameters`, model.quantization, size,
      model.context && `${count(model.context)}-token context`, model.projector && "Sees images", model.license];
    const urls = model.files.map((/** @type {any} */ file) => file.url);
    const source = kept ? model.id : urls.length === 1 ? urls[0] : urls;
    const projector = kept ? undefined : model.projector?.url; // a kept model has its own
    const start = () => this.onChoose({name: model.name, source, projector, listed: model});
    const keeping = kept
      ? iconButton("trash", `Remove ${model.name} from this device`, () => onDiscard(model))
      : iconButton("download", `Keep ${model.name} on this device`, () => onKeep(model));
    keeping.id = `${title}-keep`;
    const chats = can(model, "chat");
    return el("li", {class: "model-card", data: {model: model.id}},
      el("div", {class: "model-text"},
        el("h3", {id: title, class: "model-name"}, `${model.name} `, kept && el("span", {class: "badge kept", text: "On this device"}),
          " ", this.#fit(model)),
        el("p", {class: "model-facts"}, ...facts.filter(Boolean).map((fact) => el("span", {text: fact}))),
        model.description && el("p", {class: "hint", text: model.description}),
        !chats && el("p", {class: "hint", text: "It only continues text: it has no chat template."}),
      ),
      chats && el("div", {class: "model-buttons"}, keeping,
        el("button", {type: "button", id: `${title}-use`, class: preferred ? "button primary" : "button",
          "aria-describedby": title, on: {click: start}},
        icon(preferred ? "send" : "download"), preferred ? "Chat" : "Use")),
    );
  }

  #files() {
    const input = el("input", {type: "file", accept: ".gguf", multiple: true, id: `${this.prefix}-file`, class: "sr-only"});
    input.addEventListener("change", () => {
      if (input.files.length) this.onChoose(choiceFromFiles([...input.files]));
      input.value = "";
    });
    return el("div", {class: "own-file"}, input,
      el("label", {class: "button", for: input.id}, icon("file"), "Open a .gguf file"),
      el("p", {class: "hint", text: "or drop it anywhere on this page, with its projector (mmproj) if it sees. Nothing is uploaded."}));
  }

  #url() {
    const input = el("input", {type: "url", id: `${this.prefix}-url`, required: true, autocomplete: "off",
      spellcheck: "false", placeholder: "https://…/model.gguf"});
    const form = el("form", {class: "own-url", novalidate: true},
      el("label", {for: input.id, text: "Address of a .gguf file"}),
      el("div", {class: "field-row"}, input, el("button", {class: "button", text: "Load"})),
      el("p", {class: "field-error", role: "alert", hidden: true}));
    form.addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
      event.preventDefault();
      const problem = form.querySelector(".field-error");
      problem.hidden = true;
      input.removeAttribute("aria-invalid");
      try {
        if (!input.value.trim()) throw new TypeError("the address is empty");
        this.onChoose(choiceFromUrl(input.value.trim()));
      } catch (error) {
        problem.textContent = `That address does not work: ${/** @type {Error} */ (error).message}.`;
        problem.hidden = false;
        input.setAttribute("aria-invalid", "true");
        input.focus();
      }
    });
    return form;
  }
}

/**
 * Lets the whole page accept dropped model files.
 * @param {HTMLElement} veil shown while files hover over the page
 * @param {(files: File[]) => void} onFiles
 */
export function acceptDrops(veil, onFiles) {
  let depth = 0;
  const holdsFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files") ?? false;
  const show = (/** @type {boolean} */ visible) => {
    if (!visible) depth = 0;
    veil.hidden = !visible;
  };
  document.addEventListener("dragenter", (event) => {
    if (!holdsFiles(event)) return;
    depth += 1;
    show(true);
  });
  document.addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (depth === 0) show(false);
  });
  document.addEventListener("dragover", (event) => {
    if (holdsFiles(event)) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    show(false);
    if (!holdsFiles(event)) return;
    event.preventDefault();
    const files = [...(event.dataTransfer?.files ?? [])];
    if (files.length) onFiles(files);
  });
}
