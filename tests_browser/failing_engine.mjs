/** Sippet's engine module, whose third step, or thread, fails in the way that the address asks for. See test_tab_crash.py. */

import {openEngine as open} from "../engine/sippet_engine.mjs";

const how = new URL(import.meta.url).hash.slice(1);
const threadUrl = new URL("failing_thread.mjs", import.meta.url).href;

export const openEngine = (options) => open(how === "thread" ? {...options, threadUrl} : options);

/** (module (func (export "trap") unreachable)) */
const TRAP = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 7, 8, 1, 4, 116, 114, 97, 112, 0, 0, 10, 5, 1, 3, 0, 0, 11,
]);
const {trap} = new WebAssembly.Instance(new WebAssembly.Module(TRAP)).exports;
const failures = {
  trap,
  error: () => setTimeout(() => { throw new Error("a fault of the worker"); }),
  end: () => globalThis.close(),
};
const fail = failures[how] ?? (() => {});

const {instantiate} = WebAssembly;
WebAssembly.instantiate = async (...values) => {
  const {exports} = await instantiate(...values);
  let steps = 0;
  const sippet_step = () => (++steps === 3 && fail()) || exports.sippet_step();
  return {exports: {...exports, sippet_step}};
};

