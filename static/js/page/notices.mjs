/** Errors as people need them: what happened, what to do, and the stable code to search for or report. */

import {copyFrom, el, iconButton} from "./dom.mjs";

/**
 * @typedef {object} Problem
 * @property {string} code
 * @property {string} message
 * @property {string} hint
 * @property {Record<string, unknown>} [details]
 */

/** Whatever was thrown, as code, message and hint. @param {any} error @returns {Problem} */
export function toProblem(error) {
  if (error?.name === "SippError") {
    const {code, summary, hint, details} = error;
    return {code, message: summary, hint, details};
  }
  if (error instanceof TypeError && /module|import/i.test(error.message)) {
    return {
      code: "asset",
      message: `A part of this page could not be loaded: ${error.message}.`,
      hint: "Check the connection to the server and reload the page.",
    };
  }
  return {
    code: "internal",
    message: error?.message ? `Something unexpected went wrong: ${error.message}` : "Something unexpected went wrong.",
    hint: "Reload the page. If it happens again, please report it with this text.",
    details: error?.stack ? {stack: String(error.stack)} : {},
  };
}

/**
 * The body of an error: message, hint, code, details.
 * @param {Problem} problem
 */
export function problemBody({code, message, hint, details = {}}) {
  const facts = Object.keys(details).length ? JSON.stringify(details, null, 2) : "";
  const report = [`${code}: ${message}`, hint, facts].filter(Boolean).join("\n");
  const copy = iconButton("copy", "Copy this error", () => void copyFrom(copy, report));
  return el("div", {class: "problem-body"},
    el("p", {class: "problem-message", text: message}),
    hint && el("p", {class: "problem-hint", text: hint}),
    el("div", {class: "problem-code"}, el("span", {text: "Code "}), el("code", {text: code}), copy),
    facts && el("details", {}, el("summary", {text: "Details"}), el("pre", {tabindex: "0", text: facts})),
  );
}

export class Notices {
  /** @param {HTMLElement} root */
  constructor(root) {
    this.root = root;
  }

  /**
   * Shows an error until it is dismissed, with one thing to do about it if there is one. One of a kind is enough: the
   * same code replaces its predecessor.
   *
   * @param {any} error
   * @param {{label: string, run: () => void}} [action]
   */
  showError(error, action) {
    const problem = toProblem(error);
    if (problem.code === "internal") console.error(error);
    this.root.querySelector(`[data-code="${CSS.escape(problem.code)}"]`)?.remove();
    const dismiss = iconButton("close", "Dismiss this error", () => notice.remove());
    const notice = el("section", {class: "notice problem", role: "alert", data: {code: problem.code}},
      problemBody(problem), dismiss);
    if (action) {
      const act = () => {
        notice.remove();
        action.run();
      };
      notice.querySelector(".problem-body").append(
        el("button", {type: "button", class: "button", text: action.label, on: {click: act}}));
    }
    this.root.append(notice);
  }

  /**
   * Says something that is not an error, until it is dismissed.
   * @param {string} text
   * @param {{label: string, run: () => void}} [action]
   */
  show(text, action) {
    this.root.querySelector(".notice.info")?.remove();
    const notice = el("section", {class: "notice info", role: "status"}, el("p", {text}));
    if (action) {
      const act = () => {
        notice.remove();
        action.run();
      };
      notice.append(el("button", {type: "button", class: "button", text: action.label, on: {click: act}}));
    }
    notice.append(iconButton("close", "Dismiss", () => notice.remove()));
    this.root.append(notice);
  }

  clear() {
    this.root.replaceChildren();
  }
}
