/** Models kept in this browser: fetched once, then used without a network, until they are removed. */

import {byId} from "./dom.mjs";
import {ProgressView} from "./progress.mjs";

const REMEMBERED = "sippet.kept";

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
    onChange(remembered()); // so that a click that comes before Python finds the kept model, too
    this.progress = new ProgressView(byId("keeping"), () => this.#running?.controller.abort(), (pause) => {
      void (pause ? this.#running?.installation?.pause() : this.#running?.installation?.resume());
    });
  }

  /** Looks what is kept; where a browser stores nothing, that is nothing. */
  async refresh() {
    try {
      const kept = await this.engine.kept();
      remember(kept);
      this.onChange(kept);
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

/** @returns {any[]} what was kept when this page was last here */
function remembered() {
  try {
    return JSON.parse(localStorage.getItem(REMEMBERED) ?? "[]");
  } catch {
    return []; // damaged, or this window stores nothing
  }
}

/** @param {any[]} kept */
function remember(kept) {
  const brief = kept.map(({id, name, size, quantization, license, context, parameters, capabilities, files}) => ({
    id, name, size, quantization, license, context, parameters, capabilities,
    files: files.map((/** @type {any} */ {url, sha256}) => ({url, sha256})),
  }));
  try {
    localStorage.setItem(REMEMBERED, JSON.stringify(brief));
  } catch {
    // this window stores nothing
  }
}
