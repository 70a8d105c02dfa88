/**
 * Requests that wllama's module is working on. Each is polled with a frame that Python encoded; all that is known here
 * of the reply is the place of its "has more" flag, which Python gives too.
 */
export class WllamaStreams {
  constructor(engine) {
    this.engine = engine;
    this.requests = new Map();
  }

  active() {
    return this.requests.size > 0;
  }

  /**
   * @param {number} id
   * @param {{next: Uint8Array, moreAt: number, emptyAt: number}} request `next`: the frame that asks for the next
   *   chunk; `moreAt`: byte offset of the reply's 32-bit "has more" flag; `emptyAt`: that of its text's length
   */
  add(id, request) {
    this.requests.set(id, request);
  }

  /** Ask each request once for its next chunk, which makes the engine compute one step. */
  async advance(reply, fail) {
    for (const [id, {next, moreAt, emptyAt}] of [...this.requests]) {
      if (!this.requests.has(id)) continue;
      try {
        const data = await this.engine.call("get_result", next);
        const view = new DataView(data.buffer);
        const last = view.getUint32(moreAt, true) === 0;
        if (last) this.requests.delete(id);
        if (last || view.getUint32(emptyAt, true) > 0) reply({id, data, last});
      } catch (error) {
        this.requests.delete(id);
        fail(id, error);
      }
    }
  }

  async cancel(id, {frame}) {
    this.requests.delete(id);
    await this.engine.call("cancel", frame);
  }
}
