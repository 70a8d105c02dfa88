/** Small helpers around the DOM. Nothing here parses markup: text goes in as text. */

import {icon} from "./icons.mjs";

/**
 * Makes an element.
 *
 * @param {string} tag
 * @param {Record<string, any>} [props] attributes; besides: `class`, `text`, `data` (an object), `on` (event →
 *   listener). `false`, `null` and `undefined` leave an attribute out, `true` sets it empty.
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {any}
 */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name === "on") for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/**
 * A button with an icon; its label is read aloud, and shown when `labelled`.
 *
 * @param {string} iconName
 * @param {string} label
 * @param {(event: MouseEvent) => void} onClick
 * @param {{class?: string, labelled?: boolean}} [options]
 * @returns {HTMLButtonElement}
 */
export function iconButton(iconName, label, onClick, {class: className = "icon-button", labelled = false} = {}) {
  const props = {type: "button", class: className, on: {click: onClick}};
  return labelled
    ? el("button", props, icon(iconName), label)
    : el("button", {...props, "aria-label": label, title: label}, icon(iconName));
}

/** The element with this id. @param {string} id @returns {any} */
export function byId(id) {
  const node = document.getElementById(id);
  if (!node) throw new Error(`The page has no element #${id}`);
  return node;
}

/** Puts icons into the template's `data-icon` elements. @param {ParentNode} root */
export function fillIcons(root) {
  for (const node of root.querySelectorAll("[data-icon]")) {
    node.prepend(icon(/** @type {HTMLElement} */ (node).dataset.icon ?? ""));
    node.removeAttribute("data-icon");
  }
}

/**
 * Copies text and says so on the button for a moment.
 *
 * @param {HTMLElement} button
 * @param {string} text
 */
export async function copyFrom(button, text) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    done = copyBySelection(text);
  }
  const label = button.getAttribute("aria-label");
  button.dataset.copied = done ? "yes" : "no";
  button.setAttribute("aria-label", done ? "Copied" : "The browser refused to copy");
  setTimeout(() => {
    delete button.dataset.copied;
    if (label) button.setAttribute("aria-label", label);
    else button.removeAttribute("aria-label");
  }, 1500);
}

/** The way for pages without the clipboard API (plain http on another machine). @param {string} text */
function copyBySelection(text) {
  const area = el("textarea", {class: "sr-only", "aria-hidden": "true", tabindex: "-1"});
  area.value = text;
  const focused = /** @type {HTMLElement | null} */ (document.activeElement);
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return done;
}

/**
 * Saves text as a file.
 * @param {string} name
 * @param {string} text
 * @param {string} type
 */
export function saveFile(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], {type}));
  el("a", {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
