/** The messages on the page: one list item each, with its actions and, for answers, what they cost. */

import {isSend} from "./composer.mjs";
import {copyFrom, el, iconButton} from "./dom.mjs";
import {latency, plural, rate} from "./format.mjs";
import {preview} from "./images.mjs";
import {MarkdownStream, visible} from "./markdown.mjs";
import {problemBody} from "./notices.mjs";

/** @typedef {import("./conversation.mjs").Message} Message */

const ENDINGS = {
  length: "The answer was cut at the longest length or the end of the context; the settings can raise both.",
  cancelled: "Stopped.",
};

/** "12.3 tokens/s · first token after 240 ms · 118 tokens" @param {Message} message */
export function statsText({stats}) {
  if (!stats) return "";
  const parts = [];
  if (stats.tokensPerSecond) parts.push(`${rate(stats.tokensPerSecond)} tokens/s`);
  if (stats.timeToFirstTokenMs) parts.push(`first token after ${latency(stats.timeToFirstTokenMs)}`);
  if (stats.completionTokens) parts.push(plural(stats.completionTokens, "token"));
  return parts.join(" · ");
}

/** @param {Message} message */
function promptText({stats}) {
  const {promptTokens, cachedTokens} = stats ?? {};
  if (!promptTokens) return null;
  return `${plural(promptTokens, "token")} of prompt, ${cachedTokens ?? 0} of them remembered from before`;
}

/** One message. */
class MessageView {
  #variant = "";

  /**
   * @param {Message} message
   * @param {Handlers} handlers
   */
  constructor(message, handlers) {
    this.message = message;
    this.handlers = handlers;
    const mine = message.role === "user";
    this.body = el("div", {class: mine ? "bubble" : "answer", dir: "auto"});
    this.images = el("div", {class: "images"});
    this.thinking = el("div", {class: "thinking", text: "Thinking…", hidden: true});
    this.foot = el("div", {class: "message-foot"});
    this.root = el("li", {class: `message ${message.role}`, data: {id: message.id}},
      el("h2", {class: "sr-only", text: mine ? "You" : message.model ?? "Assistant"}), this.images, this.body, this.thinking, this.foot);
    if (!mine) this.stream = new MarkdownStream(this.body);
  }

  /** Shows the message as it is now. @param {{done: boolean, waiting?: string}} state */
  update({done, waiting = ""}) {
    const {message} = this;
    if (this.stream) {
      if (done) this.stream.finish(message.text);
      else this.stream.set(message.text);
    } else {
      this.body.textContent = visible(message.text);
      this.images.replaceChildren(...(message.images ?? []).map((url, index) => preview(url, `Image ${index + 1}`)));
    }
    this.#showReasoning();
    this.root.classList.toggle("streaming", !done);
    this.thinking.hidden = done || message.text !== "";
    this.thinking.textContent = waiting || "Thinking…";
    this.#variant = "";
    this.done = done;
    this.updateFooter();
  }

  /** The footer also depends on how many variants of the message there are. */
  updateFooter() {
    const {index, count} = this.handlers.variant(this.message.id);
    const variant = this.done ? `${index} of ${count}` : "none";
    if (variant === this.#variant) return;
    this.#variant = variant;
    this.foot.replaceChildren(...(this.done ? this.#footer(index, count) : []));
  }

  /** Turns a message of the user into a form; sending makes a variant of it. */
  edit() {
    const {message, handlers} = this;
    const input = el("textarea", {"aria-label": "Edit the message", rows: 3});
    input.value = message.text;
    const close = () => {
      form.replaceWith(this.body);
      this.foot.hidden = false;
    };
    const cancel = el("button", {type: "button", class: "button", text: "Cancel", on: {click: close}});
    const form = el("form", {class: "edit"}, input,
      el("div", {class: "edit-actions"}, cancel, el("button", {class: "button primary", text: "Send"})));
    form.addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
      event.preventDefault();
      const text = input.value.trim();
      if (!text) return;
      close();
      handlers.onEdit(message.id, text);
    });
    input.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
        this.foot.querySelector("button")?.focus();
      } else if (isSend(event)) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    this.body.replaceWith(form);
    this.foot.hidden = true;
    input.focus();
  }

  #showReasoning() {
    const {reasoning} = this.message;
    if (!reasoning) return;
    this.reasoning ??= el("div", {class: "plain"});
    if (!this.reasoning.isConnected) {
      this.body.before(el("details", {class: "reasoning"}, el("summary", {text: "Reasoning"}), this.reasoning));
    }
    this.reasoning.textContent = visible(reasoning);
  }

  /** @param {number} index @param {number} count of variants */
  #footer(index, count) {
    const {message, handlers} = this;
    const nodes = [];
    if (message.error) {
      const again = el("button", {type: "button", class: "button", text: "Try again",
        on: {click: () => handlers.onRegenerate(message.id)}});
      const problem = el("div", {class: "problem", role: "alert"}, problemBody(message.error));
      problem.querySelector(".problem-body")?.append(again);
      nodes.push(problem);
    }
    const ending = ENDINGS[/** @type {keyof ENDINGS} */ (message.finish)];
    if (ending) nodes.push(el("p", {class: "ending", text: ending}));
    nodes.push(el("div", {class: "actions"}, ...(count > 1 ? this.#variants(index, count) : []), ...this.#actions()));
    const stats = statsText(message);
    if (stats) nodes.push(el("p", {class: "stats", text: stats, title: promptText(message)}));
    return nodes;
  }

  #actions() {
    const {message, handlers} = this;
    const copy = iconButton("copy", "Copy message", () => void copyFrom(copy, message.text));
    const own = message.role === "user"
      ? iconButton("edit", "Edit message", () => this.edit())
      : !message.error && iconButton("retry", "Answer again", () => handlers.onRegenerate(message.id));
    const remove = iconButton("trash", "Delete message and what follows", () => handlers.onDelete(message.id));
    return [message.text && copy, own, remove];
  }

  /** @param {number} index @param {number} count */
  #variants(index, count) {
    const {message, handlers} = this;
    const step = (/** @type {number} */ by) => handlers.onVariant(message.id, by);
    const previous = iconButton("left", "Previous variant", () => step(-1));
    const next = iconButton("right", "Next variant", () => step(1));
    previous.disabled = index === 1;
    next.disabled = index === count;
    return [previous, el("span", {class: "variant", text: `${index} of ${count}`}), next];
  }
}

/**
 * @typedef {object} Handlers
 * @property {(id: string) => {index: number, count: number}} variant which of how many, from 1
 * @property {(id: string, by: number) => void} onVariant
 * @property {(id: string) => void} onRegenerate
 * @property {(id: string, text: string) => void} onEdit
 * @property {(id: string) => void} onDelete
 */

export class Transcript {
  /** @type {Map<string, MessageView>} */
  #views = new Map();

  /**
   * @param {HTMLElement} root an ordered list
   * @param {Handlers} handlers
   */
  constructor(root, handlers) {
    this.root = root;
    this.handlers = handlers;
  }

  /** Shows exactly these messages; what is shown already stays as it is. @param {Message[]} messages */
  show(messages) {
    const old = this.#views;
    this.#views = new Map();
    for (const [index, message] of messages.entries()) {
      const known = old.get(message.id);
      const view = known?.message === message ? known : new MessageView(message, this.handlers);
      this.#views.set(message.id, view);
      // Moving a node that is in its place already would take the focus out of it.
      const present = this.root.children[index];
      if (present !== view.root) this.root.insertBefore(view.root, present ?? null);
      if (view !== known) view.update({done: true});
      else view.updateFooter();
    }
    while (this.root.children.length > messages.length) this.root.lastElementChild?.remove();
  }

  /** Lets the user edit a message. @param {string} id */
  edit(id) {
    this.#views.get(id)?.edit();
  }

  /** Renders all Markdown anew. The rest stays, with the focus and what is being edited. */
  redraw() {
    for (const {stream} of this.#views.values()) stream?.redraw();
  }

  /**
   * @param {string} id
   * @param {{done: boolean, waiting?: string}} state
   */
  update(id, state) {
    this.#views.get(id)?.update(state);
  }
}
