/** One answer being written: from the prompt to the final text, its numbers or its error. */

import {toProblem} from "./notices.mjs";

/** Milliseconds between two redraws: often enough to read along, seldom enough to leave the CPU to the model. */
const REDRAW = 80;
/** A redraw that takes long makes the next one wait this many times as long. */
const PATIENCE = 5;

/** After these the model has to be loaded again. */
const LOST = ["engine_crashed", "endpoint_not_found", "client_closed"];

export class Answer {
  #controller = new AbortController();
  #redraw = 0;
  #pause = REDRAW;
  #announced = 0;

  /**
   * @param {object} parts
   * @param {import("./engine.mjs").Engine} parts.engine
   * @param {import("./conversation.mjs").Conversation} parts.conversation
   * @param {import("./conversation.mjs").Message} parts.message the empty message to fill
   * @param {Record<string, any>} parts.options sampling
   * @param {import("./transcript.mjs").Transcript} parts.transcript
   * @param {import("./announcer.mjs").Announcer} parts.announcer
   */
  constructor({engine, conversation, message, options, transcript, announcer}) {
    Object.assign(this, {engine, conversation, message, options, transcript, announcer});
    /** How the message is shown. @type {{done: boolean, waiting?: string}} */
    this.view = {done: false};
  }

  stop() {
    this.#controller.abort(new DOMException("stopped by the user", "AbortError"));
  }

  /** Resolves when the answer is finished, however it ended: the message tells. */
  async run() {
    const {message} = this;
    try {
      if (this.engine.model === "loading") {
        this.show({done: false, waiting: "Waiting for the model…"});
        if (!(await this.engine.whenReady(this.#controller.signal))) {
          message.finish = "cancelled";
          return;
        }
      }
      this.show({done: false});
      message.model = this.engine.choice?.name;
      await this.#generate();
    } catch (error) {
      if (this.#controller.signal.aborted) message.finish = "cancelled";
      else this.#fail(error);
    } finally {
      clearTimeout(this.#redraw);
      this.show({done: true});
    }
  }

  /** Draws the message, as before or in another state. @param {{done: boolean, waiting?: string}} [view] */
  show(view = this.view) {
    this.view = view;
    this.transcript.update(this.message.id, view);
  }

  async #generate() {
    const {message} = this;
    const prompt = this.conversation.prompt(message.parent);
    const {run} = await this.engine.chat(prompt, {
      ...this.options,
      contextKey: this.conversation.id, // its next turn computes only what is new
      signal: this.#controller.signal,
    });
    for await (const batch of run.tokens) {
      message.text += batch.text;
      if (batch.reasoning) message.reasoning = (message.reasoning ?? "") + batch.reasoning;
      this.#redraw ||= window.setTimeout(() => this.#draw(), this.#pause);
    }
    const result = await run;
    message.text = result.text;
    if (result.reasoning) message.reasoning = result.reasoning;
    message.finish = result.finishReason;
    message.stats = {
      promptTokens: result.usage?.promptTokens,
      cachedTokens: result.usage?.cachedTokens,
      completionTokens: result.usage?.completionTokens,
      timeToFirstTokenMs: result.timings?.timeToFirstTokenMs,
      tokensPerSecond: result.timings?.tokensPerSecond,
    };
    this.announcer.feed(message.text.slice(this.#announced));
    this.announcer.end(message.finish === "cancelled" ? "Stopped." : "End of the answer.");
  }

  #draw() {
    this.#redraw = 0;
    const start = performance.now();
    this.show();
    this.#pause = Math.max(REDRAW, PATIENCE * (performance.now() - start));
    this.announcer.feed(this.message.text.slice(this.#announced));
    this.#announced = this.message.text.length;
  }

  /** @param {any} error */
  #fail(error) {
    const {code, message, hint} = toProblem(error);
    if (code === "internal") console.error(error);
    if (LOST.includes(code)) this.engine.lose();
    this.message.finish = "error";
    this.message.error = {code, message, hint};
  }
}
