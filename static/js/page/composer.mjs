/** The message box: Enter sends, Shift+Enter breaks the line, Escape stops; safe with input methods. */

import {byId} from "./dom.mjs";

export class Composer {
  /**
   * @param {{onSend: (text: string) => boolean, onStop: () => void, onEditLast: () => void}} handlers `onSend` returns
   *   whether the text was taken; otherwise it stays in the box
   */
  constructor({onSend, onStop, onEditLast}) {
    this.form = byId("composer");
    this.input = byId("prompt");
    this.sendButton = byId("send");
    this.stopButton = byId("stop");
    this.onSend = onSend;
    this.form.addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
      event.preventDefault();
      this.submit();
    });
    this.stopButton.addEventListener("click", () => {
      onStop();
      this.focus();
    });
    this.input.addEventListener("input", () => this.#refresh());
    this.input.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "ArrowUp" && !this.text) onEditLast();
      else if (isSend(event)) this.submit();
      else return;
      event.preventDefault();
    });
    this.#refresh();
  }

  submit() {
    const text = this.text.trim();
    if (!text || !this.onSend(text)) return;
    this.text = "";
  }

  get text() {
    return this.input.value;
  }

  set text(value) {
    this.input.value = value;
    this.#refresh();
  }

  /** While an answer is written, Stop takes the place of Send. @param {boolean} busy */
  setBusy(busy) {
    const hadFocus = [this.sendButton, this.stopButton].includes(document.activeElement);
    this.busy = busy;
    this.sendButton.hidden = busy;
    this.stopButton.hidden = !busy;
    if (hadFocus) this.focus();
  }

  focus() {
    this.input.focus({preventScroll: true});
  }

  #refresh() {
    this.sendButton.disabled = !this.text.trim();
    // `field-sizing: content` does it in CSS where it is known.
    if (CSS.supports("field-sizing", "content")) return;
    this.input.style.height = "auto";
    this.input.style.height = `${this.input.scrollHeight + 2}px`;
  }
}

/**
 * Enter sends, unless it breaks a line or ends a composition of an input method, to which it then belongs; Safari
 * reports that one after the composition, as key code 229.
 * @param {KeyboardEvent} event
 */
export function isSend(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
}
