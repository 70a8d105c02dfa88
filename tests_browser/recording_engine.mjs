/** Sippet's engine module, which also tells the page, on the channel "engine", what is asked of it. See test_tab_cancel.py. */

import {openEngine as open} from "../engine/sippet_engine.mjs";

const channel = new BroadcastChannel("engine");

export async function openEngine(options) {
  const engine = await open(options);
  for (const name of ["submit", "step", "cancel"]) {
    const plain = engine[name].bind(engine);
    engine[name] = (...values) => {
      channel.postMessage(name);
      return plain(...values);
    };
  }
  return engine;
}
