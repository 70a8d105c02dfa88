/** Shows how far a model is: downloading with bytes, rate and time left, loading, and a way to cancel. */

import {el} from "./dom.mjs";
import {bytes, duration} from "./format.mjs";

/**
 * @typedef {object} Progress the one shape that every load reports
 * @property {"idle" | "checking" | "downloading" | "loading" | "ready" | "error"} state
 * @property {number} [bytes]
 * @property {number | null} [total]
 * @property {number | null} [rate] bytes per second
 * @property {number | null} [eta] seconds
 * @property {string} [text]
 */

const WORDS = {
  idle: "Starting",
  checking: "Checking the model",
  downloading: "Downloading",
  loading: "Loading into memory",
  ready: "Ready",
  error: "Failed",
};

/** One line: what has arrived, how fast, how long it will take. @param {Progress} progress */
export function describe(progress) {
  if (progress.state !== "downloading" || progress.bytes === undefined) return progress.text ?? "";
  const parts = [progress.total ? `${bytes(progress.bytes)} of ${bytes(progress.total)}` : bytes(progress.bytes)];
  if (progress.rate) parts.push(`${bytes(progress.rate)}/s`);
  if (progress.eta !== undefined && progress.eta !== null && Number.isFinite(progress.eta)) {
    parts.push(`${duration(progress.eta)} left`);
  }
  return parts.join(" · ");
}

export class ProgressView {
  /**
   * @param {HTMLElement} root
   * @param {() => void} onCancel
   * @param {(pause: boolean) => void} [onPause] where it can be paused
   */
  constructor(root, onCancel, onPause) {
    this.root = root;
    const id = `${root.id}-title`;
    this.title = el("p", {class: "progress-title", id});
    this.detail = el("p", {class: "progress-detail"});
    this.bar = el("progress", {max: 1, "aria-labelledby": id});
    this.pause = el("button", {type: "button", class: "button quiet", text: "Pause", hidden: !onPause});
    this.pause.addEventListener("click", () => {
      this.paused = !this.paused;
      this.pause.textContent = this.paused ? "Resume" : "Pause";
      onPause?.(this.paused);
    });
    const cancel = el("button", {type: "button", class: "button quiet", text: "Cancel", on: {click: onCancel}});
    root.replaceChildren(el("div", {class: "progress-row"}, el("div", {}, this.title, this.detail),
      el("div", {class: "progress-buttons"}, this.pause, cancel)), this.bar);
    root.hidden = true;
  }

  /** @param {string} name of the model */
  start(name) {
    this.name = name;
    this.paused = false;
    this.pause.textContent = "Pause";
    this.root.hidden = false;
    this.update({state: "idle", text: "Python starts in the background…"});
  }

  /** @param {Progress} progress */
  update(progress) {
    this.title.textContent = `${WORDS[progress.state] ?? progress.state}: ${this.name}`;
    this.detail.textContent = describe(progress);
    if (progress.bytes !== undefined && progress.total) this.bar.value = Math.min(1, progress.bytes / progress.total);
    else this.bar.removeAttribute("value");
  }

  stop() {
    this.root.hidden = true;
  }
}
