/** Keyboard shortcuts: one table that is both obeyed and shown. */

import {byId, el} from "./dom.mjs";

const MAC = /mac|iphone|ipad/i.test(navigator.platform);

/**
 * @typedef {object} Shortcut
 * @property {string} key of the event, lower case
 * @property {boolean} [shift]
 * @property {string} does
 * @property {() => void} run
 */

/** @type {[string[], string][]} those of the message box */
const BOX = [
  [["Enter"], "Send the message"],
  [["Shift", "Enter"], "New line"],
  [["↑"], "Edit the last message, when the box is empty"],
  [["Esc"], "Stop the answer"],
];

/**
 * Obeys Ctrl (⌘ on Apple keyboards) with these keys, and lists them all in the dialog.
 * @param {Shortcut[]} shortcuts
 */
export function bindShortcuts(shortcuts) {
  const dialog = byId("shortcuts-dialog");
  const all = [...shortcuts, {key: "/", does: "Show these shortcuts", run: () => dialog.showModal()}];
  document.addEventListener("keydown", (event) => {
    if (!(MAC ? event.metaKey : event.ctrlKey) || event.altKey || document.querySelector("dialog[open]")) return;
    const match = all.find(({key, shift = false}) => key === event.key.toLowerCase() && shift === event.shiftKey);
    if (!match) return;
    event.preventDefault();
    match.run();
  });
  /** @type {[string[], string][]} */
  const rows = all.map(({key, shift, does}) => [[MAC ? "⌘" : "Ctrl", ...(shift ? ["Shift"] : []), key.toUpperCase()], does]);
  byId("shortcuts").replaceChildren(...[...BOX, ...rows].map(([keys, does]) =>
    el("div", {}, el("dt", {}, ...keys.map((key) => el("kbd", {text: key}))), el("dd", {text: does}))));
}
