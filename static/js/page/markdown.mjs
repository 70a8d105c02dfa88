/**
 * A model's Markdown as DOM, safe whatever the model says.
 *
 * Two independent layers: the renderer below emits only plain elements (raw HTML comes out as visible text, images as
 * links), and DOMPurify then removes everything that is not on its short list. Nothing that is rendered can load
 * anything, run anything, submit anything, style anything or go anywhere without a click on a link whose host shows.
 */

import {copyFrom, el, iconButton} from "./dom.mjs";

const TAGS = ["a", "b", "blockquote", "br", "code", "dd", "del", "details", "dl", "dt", "em", "h1", "h2", "h3", "h4", "h5",
  "h6", "hr", "i", "kbd", "li", "mark", "ol", "p", "pre", "s", "strong", "sub", "summary", "sup", "table", "tbody", "td",
  "th", "thead", "tr", "u", "ul"];
const ATTRIBUTES = ["href", "align", "start", "class"];

/** Harmless inline tags that models like to write; all others show as text. */
const PLAIN_TAG = /^<\/?(?:b|br|del|details|em|i|kbd|mark|s|strong|sub|summary|sup|u)\s*\/?>$/i;
const LINK = /^(?:https?:|mailto:)/i;

const RENDERER = {
  html(/** @type {any} */ {text, block}) {
    if (PLAIN_TAG.test(text.trim())) return text;
    return block ? `<pre><code class="language-html">${escape(text.trimEnd())}</code></pre>` : escape(text);
  },
  image(/** @type {any} */ {href, text}) {
    return `<a href="${escape(href)}">${escape(`Image: ${text || "untitled"}`)}</a>`;
  },
  checkbox(/** @type {any} */ {checked}) {
    return checked ? "☑ " : "☐ ";
  },
};

/** Control characters, and those that reorder text so that it reads as something else ("Trojan Source"). */
const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069\ufff9-\ufffb]/g;

/** Longer lines and blocks are shown as they are: no Markdown is like that, and parsing it could take seconds. */
const LONGEST_LINE = 10_000;
const LONGEST_BLOCK = 60_000;

/** @type {{marked: any, purify: any} | null} */
let library = null;

/** Loads the two libraries; until then, and if they are missing, text is shown plain. @returns {Promise<boolean>} */
export async function loadMarkdown() {
  try {
    const [{Marked}, {default: purify}] = await Promise.all([
      import("../../vendor/marked/marked.esm.js"),
      import("../../vendor/dompurify/purify.es.mjs"),
    ]);
    library = {marked: new Marked({gfm: true, renderer: RENDERER}), purify};
    return true;
  } catch (error) {
    console.error("Markdown is shown as plain text:", error);
    return false;
  }
}

/** What is shown of a text: no control characters, no reordering. @param {string} text */
export function visible(text) {
  return text.replace(/\r\n?/g, "\n").replace(INVISIBLE, "");
}

/**
 * Text that grows. Finished blocks are left alone and only the last one is rendered again, so the cost of a token does
 * not grow with the answer, and a selection in what is finished survives.
 */
export class MarkdownStream {
  #root;
  #text = "";
  #settled = 0;
  /** @type {ChildNode[]} */
  #tail = [];

  /** @param {ParentNode} root */
  constructor(root) {
    this.#root = root;
  }

  /** Shows `text`, which normally continues the last one. @param {string} text */
  set(text) {
    const shown = visible(text);
    if (!shown.startsWith(this.#text)) this.#reset();
    this.#text = shown;
    for (const node of this.#tail) node.remove();
    this.#tail = [];
    const {settled, tail} = split(shown.slice(this.#settled));
    this.#root.append(...render(settled));
    this.#tail = render(tail);
    this.#root.append(...this.#tail);
    this.#settled += lengthOf(settled);
  }

  /** The last word: also resolves what refers to later text, such as `[links][1]`. @param {string} text */
  finish(text) {
    if (/^ {0,3}\[[^\]\n]+\]:/m.test(text)) this.#reset();
    this.set(text);
  }

  /** Renders all of it anew, as when the library has become available. */
  redraw() {
    const text = this.#text;
    this.#reset();
    this.set(text);
  }

  #reset() {
    this.#root.replaceChildren();
    this.#text = "";
    this.#settled = 0;
    this.#tail = [];
  }
}

/** @typedef {{type: string, raw: string}} Token a block, as marked has it */

/**
 * The blocks of a text that are finished, and the last one, which may still grow.
 * @param {string} source
 * @returns {{settled: Token[], tail: Token[]}}
 */
function split(source) {
  const tokens = tokenize(source);
  const last = tokens.findLastIndex((token) => token.type !== "space");
  return {settled: tokens.slice(0, Math.max(0, last)), tail: tokens.slice(Math.max(0, last))};
}

/** @param {string} source @returns {Token[]} one of type `plain` when it has to be shown as it is */
function tokenize(source) {
  const whole = source ? [{type: "plain", raw: source}] : [];
  if (!library || source.split("\n").some((line) => line.length > LONGEST_LINE)) return whole;
  try {
    const tokens = library.marked.lexer(source);
    return lengthOf(tokens) === source.length ? tokens : whole;
  } catch {
    return whole; // hostile nesting can exhaust the parser's stack
  }
}

/** @param {Token[]} tokens */
function lengthOf(tokens) {
  return tokens.reduce((sum, token) => sum + token.raw.length, 0);
}

/** @param {Token[]} tokens @returns {ChildNode[]} */
function render(tokens) {
  if (!library || tokens.some(isPlain)) {
    return tokens.length > 1 ? tokens.flatMap((token) => render([token])) : tokens.map((token) => plain(token.raw));
  }
  try {
    const fragment = library.purify.sanitize(library.marked.parser(tokens), {
      ALLOWED_TAGS: TAGS,
      ALLOWED_ATTR: ATTRIBUTES,
      ALLOWED_URI_REGEXP: LINK,
      ALLOW_DATA_ATTR: false,
      ALLOW_ARIA_ATTR: false,
      RETURN_DOM_FRAGMENT: true,
    });
    dress(fragment);
    return [...fragment.childNodes];
  } catch {
    return [plain(tokens.map((token) => token.raw).join(""))];
  }
}

/** @param {Token} token */
function isPlain({type, raw}) {
  return type === "plain" || (type !== "code" && raw.length > LONGEST_BLOCK);
}

/** @param {string} text @returns {ChildNode} */
function plain(text) {
  return el("div", {class: "plain", text});
}

/** Finishes sanitised elements: links, code blocks, tables. @param {DocumentFragment} fragment */
function dress(fragment) {
  for (const node of fragment.querySelectorAll("[class]")) {
    if (node.localName !== "code" || !/^language-[\w+#.-]{1,40}$/.test(node.className)) node.removeAttribute("class");
  }
  for (const link of fragment.querySelectorAll("a")) dressLink(link);
  for (const pre of fragment.querySelectorAll("pre")) dressCode(pre);
  for (const table of fragment.querySelectorAll("table")) {
    const frame = el("div", {class: "table-frame", role: "region", "aria-label": "Table", tabindex: "0"});
    table.replaceWith(frame);
    frame.append(table);
  }
}

/** @param {HTMLAnchorElement} link */
function dressLink(link) {
  const address = link.getAttribute("href") ?? "";
  // Relative addresses would lead into the page's own server: a model knows nothing there.
  const url = LINK.test(address) && URL.canParse(address) ? new URL(address) : null;
  if (!url) {
    link.replaceWith(...link.childNodes);
    return;
  }
  link.rel = "noopener noreferrer";
  link.target = "_blank";
  const host = url.host || url.pathname;
  if (![url.href, address, host].includes(link.textContent ?? "")) {
    link.append(el("span", {class: "link-host", text: ` (${host})`}));
  }
}

/** @param {HTMLPreElement} pre */
function dressCode(pre) {
  const code = pre.textContent?.replace(/\n$/, "") ?? "";
  const language = pre.querySelector("code")?.className.replace("language-", "") || "text";
  const copy = iconButton("copy", "Copy code", () => void copyFrom(copy, code));
  const frame = el("div", {class: "code"});
  pre.replaceWith(frame);
  pre.tabIndex = 0;
  frame.append(el("div", {class: "code-bar"}, el("span", {text: language}), copy), pre);
}

/** @param {string} text */
function escape(text) {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
