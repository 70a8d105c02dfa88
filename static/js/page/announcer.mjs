/** Reads an answer to screen readers in sentences, a few seconds apart, instead of token by token. */

const PAUSE = 2500;

export class Announcer {
  #region;
  #waiting = "";
  #timer = 0;

  /** @param {HTMLElement} region an `aria-live="polite"` element that nobody sees */
  constructor(region) {
    this.#region = region;
  }

  /** At once, in place of what was waiting. @param {string} text */
  say(text) {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#waiting = "";
    this.#region.textContent = text;
  }

  /** Text of a growing answer. @param {string} text */
  feed(text) {
    this.#waiting += text;
    if (!this.#timer) this.#timer = window.setTimeout(() => this.#flush(), PAUSE);
  }

  /** The end of the answer: says the rest, then `closing`. @param {string} closing */
  end(closing) {
    this.say(`${this.#waiting} ${closing}`.trim());
  }

  #flush() {
    this.#timer = 0;
    const end = this.#waiting.search(/[.!?:;\n][^.!?:;\n]*$/) + 1;
    const ready = end > 0 ? this.#waiting.slice(0, end) : "";
    if (ready.trim()) this.#region.textContent = ready.trim();
    this.#waiting = this.#waiting.slice(ready.length);
    if (this.#waiting) this.#timer = window.setTimeout(() => this.#flush(), PAUSE);
  }
}
