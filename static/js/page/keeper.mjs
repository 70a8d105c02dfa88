/** Models kept in this browser: fetched once, then used without a network, until they are removed. */

import {byId} from "./dom.mjs";
import {ProgressView} from "./progress.mjs";

export class Keeper {
  /** @type {{controller: AbortController, installation: any} | null} */
  #running = null;

  /**
   * @param {import("./engine.mjs").Engine} engine
   * @param {import("./notices.mjs").Notices} notices
   * @param {(kept: any[]) => void} onChange
   */
  constructor(engine, notices, onChange) {
    this.engine = engine;
    this.notices = notices;
    this.onChange = onChange;
    this.progress = new ProgressView(byId("keeping"), () => this.#running?.controller.abort(), (pause) => {
      void (pause ? this.#running?.installation?.pause() : this.#running?.installation?.resume());
    });
  }

  /** Looks what is kept; where a browser stores nothing, that is nothing. */
  async refresh() {
    try {
      this.onChange(await this.engine.kept());
    } catch (error) {
      console.warn("Kept models can't be listed:", error);
    }
  }

  /** @param {any} model its entry in the page's configuration */
  async keep(model) {
    if (this.#running) return this.notices.show("One model is being fetched already.");
    const controller = new AbortController();
    const running = this.#running = {controller, installation: /** @type {any} */ (null)};
    this.progress.start(model.name);
    try {
      const onProgress = (/** @type {any} */ progress) => this.progress.update(progress);
      const {installation} = await this.engine.keep(model, {onProgress, signal: controller.signal});
      running.installation = installation;
      await installation;
      this.notices.show(`${model.name} is kept on this device.`);
    } catch (error) {
      if (!controller.signal.aborted) {
        this.notices.showError(error, {label: "Try again", run: () => void this.keep(model)});
      }
    } finally {
      this.#running = null;
      this.progress.stop();
      await this.refresh();
    }
  }

  /** @param {any} model */
  async discard(model) {
    try {
      await this.engine.discard(model.id);
    } catch (error) {
      this.notices.showError(error);
    }
    await this.refresh();
  }
}
