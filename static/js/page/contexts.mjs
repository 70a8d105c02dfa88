/**
 * What a model has computed of the conversations, kept on this device: after a reload the next turn reads only what is
 * new. Each is kept for the model that answered last.
 */

/** Milliseconds between an answer and its being kept: a question that follows at once goes first. */
const REST = 500;
/** Bytes that all of them may take; those that were not gone on with for longest go first. */
const MOST_BYTES = 512 << 20;
const REMEMBERED = "sippet.contexts";

/** @typedef {{id: string, model: string, nbytes: number}} Kept */

export class Contexts {
  #timer = 0;
  /** Conversations to be kept at the next rest. @type {Set<string>} */
  #waiting = new Set();
  /** One thing after the other: what is forgotten must not be written afterwards. @type {Promise<void>} */
  #work = Promise.resolve();

  /** @param {import("./engine.mjs").Engine} engine */
  constructor(engine) {
    this.engine = engine;
  }

  /** Keeps a conversation as soon as the engine has rested. @param {string} id */
  keep(id) {
    this.#waiting.add(id);
    this.rest();
  }

  /** The engine has become idle. */
  rest() {
    this.wait();
    this.#timer = window.setTimeout(() => {
      for (const waiting of this.#waiting) this.#next(() => this.#keep(waiting));
      this.#waiting.clear();
    }, REST);
  }

  /** The engine is needed for an answer. */
  wait() {
    clearTimeout(this.#timer);
  }

  /** Deletes what was kept of a conversation. @param {string} id */
  forget(id) {
    this.#waiting.delete(id);
    this.#next(() => this.#forget(id));
  }

  /**
   * Deletes what was kept of conversations that are gone.
   * @param {() => Promise<{id: string}[]>} list of all there are
   */
  async sweep(list) {
    const kept = read();
    const there = new Set((await list()).map(({id}) => id));
    for (const {id} of kept) if (!there.has(id)) this.forget(id);
  }

  /** @param {() => Promise<void>} work */
  #next(work) {
    // Nothing is lost but time: not worth more than a line in the console.
    this.#work = this.#work.then(work).catch((error) => console.warn("A conversation's cache was not kept:", error));
  }

  /** @param {string} id */
  async #keep(id) {
    const model = this.engine.choice?.name;
    if (this.engine.model !== "ready" || !model) return;
    if (read().some((kept) => kept.id === id && kept.model !== model)) await this.#forget(id);
    const nbytes = await this.engine.saveContext(id);
    if (nbytes === null) return;
    const all = [...read().filter((kept) => kept.id !== id), {id, model, nbytes}];
    write(all);
    let total = all.reduce((sum, kept) => sum + kept.nbytes, 0);
    for (const kept of all) {
      if (total <= MOST_BYTES) break;
      await this.#forget(kept.id);
      total -= kept.nbytes;
    }
  }

  /** @param {string} id */
  async #forget(id) {
    if (!read().some((kept) => kept.id === id)) return;
    await this.engine.forgetContext(id);
    write(read().filter((kept) => kept.id !== id));
  }
}

/** @returns {Kept[]} the one that was gone on with last is last */
function read() {
  try {
    return JSON.parse(localStorage.getItem(REMEMBERED) ?? "[]");
  } catch {
    return []; // damaged, or this window stores nothing
  }
}

/** @param {Kept[]} kept */
function write(kept) {
  localStorage.setItem(REMEMBERED, JSON.stringify(kept));
}
