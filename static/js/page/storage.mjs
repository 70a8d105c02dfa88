/** What the kept models take on this device, and what can be removed. */

import {byId, el, iconButton} from "./dom.mjs";
import {bytes} from "./format.mjs";

export class StoragePanel {
  /**
   * @param {import("./engine.mjs").Engine} engine
   * @param {{onRemove: (model: any) => void}} options
   */
  constructor(engine, {onRemove}) {
    this.engine = engine;
    this.onRemove = onRemove;
    this.root = byId("storage");
    this.body = byId("storage-body");
  }

  /** Looks at the storage again. */
  async refresh() {
    try {
      const [report, kept] = await Promise.all([this.engine.storage(), this.engine.kept()]);
      this.#show(report, kept);
      this.root.hidden = false;
    } catch (error) {
      this.body.replaceChildren(el("p", {text: `${error.summary ?? error.message} ${error.hint ?? ""}`}));
      this.root.hidden = this.engine.runtime !== "ready";
    }
  }

  /**
   * @param {any} report
   * @param {any[]} kept
   */
  #show({estimate: {usage, quota, persisted}, unfinished}, kept) {
    const left = quota === null ? "" : `, ${bytes(Math.max(0, quota - usage))} are free for more`;
    const begun = Object.values(unfinished).reduce((sum, size) => sum + size, 0);
    this.body.replaceChildren(
      el("p", {text: `This page takes ${bytes(usage)} on this device${left}.`}),
      el("ul", {class: "stored"},
        ...kept.map((model) => row(model.name, model.size, `Delete ${model.name} from this device`, () => this.onRemove(model))),
        begun > 0 && row("Unfinished downloads", begun, "Delete unfinished downloads", () => void this.#tidy())),
      el("p", {class: "hint"}, persisted
        ? "The browser keeps them until you delete them."
        : "The browser may delete them when the device runs low on space, and does so when a private window closes.",
      !persisted && el("button", {type: "button", class: "button small", on: {click: () => void this.#protect()}},
        "Ask it to keep them")),
    );
  }

  async #tidy() {
    await this.engine.removeUnfinished();
    await this.refresh();
  }

  async #protect() {
    const granted = await this.engine.persist();
    await this.refresh();
    if (!granted) {
      this.body.append(el("p", {class: "hint", role: "status",
        text: "The browser declined. Adding the page to the bookmarks or installing it often changes its mind."}));
    }
  }
}

/** @param {string} name @param {number} size @param {string} label @param {() => void} onClick */
function row(name, size, label, onClick) {
  return el("li", {}, el("span", {text: name}), el("span", {class: "hint", text: bytes(size)}), iconButton("trash", label, onClick));
}
