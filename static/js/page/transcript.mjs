/** The messages on the page: one list item each, with its actions and, for answers, what they cost. */

import {copyFrom, el, iconButton} from "./dom.mjs";
import {latency, plural, rate} from "./format.mjs";
import {MarkdownStream, visible} from "./markdown.mjs";
import {problemBody} from "./notices.mjs";

/** @typedef {import("./conversation.mjs").Message} Message */

const ENDINGS = {
  length: "It reached the token limit of an answer.",
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

/** One message. */
class MessageView {
  /**
   * @param {Message} message
   * @param {Handlers} handlers
   */
  constructor(message, handlers) {
    this.message = message;
    this.handlers = handlers;
    const mine = message.role === "user";
    this.body = el("div", {class: mine ? "bubble" : "answer", dir: "auto"});
    this.thinking = el("div", {class: "thinking", text: "Thinking…", hidden: true});
    this.foot = el("div", {class: "message-foot"});
    this.root = el("li", {class: `message ${message.role}`, data: {id: message.id}},
      el("h2", {class: "sr-only", text: mine ? "You" : message.model ?? "Assistant"}), this.body, this.thinking, this.foot);
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
    }
    this.#showReasoning();
    this.root.classList.toggle("streaming", !done);
    this.thinking.hidden = done || message.text !== "";
    this.thinking.textContent = waiting || "Thinking…";
    this.foot.replaceChildren(...(done ? this.#footer() : []));
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

  #footer() {
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
    if (message.text || !message.error) {
      const copy = iconButton("copy", "Copy message", () => void copyFrom(copy, message.text));
      nodes.push(el("div", {class: "actions"}, message.text && copy, ...handlers.actions(message)));
    }
    const stats = statsText(message);
    if (stats) nodes.push(el("p", {class: "stats", text: stats}));
    return nodes;
  }
}

/**
 * @typedef {object} Handlers
 * @property {(id: string) => void} onRegenerate
 * @property {(message: Message) => Node[]} actions what can be done with a message besides copying
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
    }
    while (this.root.children.length > messages.length) this.root.lastElementChild?.remove();
  }

  /** Renders everything anew, as when Markdown has become available. */
  refresh() {
    const messages = [...this.#views.values()].map((view) => view.message);
    this.#views.clear();
    this.show(messages);
  }

  /**
   * @param {string} id
   * @param {{done: boolean, waiting?: string}} state
   */
  update(id, state) {
    this.#views.get(id)?.update(state);
  }
}
