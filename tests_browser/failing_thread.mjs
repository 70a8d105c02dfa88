/** A thread of Sippet's engine that ends as soon as it is given work. See test_tab_crash.py. */

import "../engine/sippet_thread.mjs";

const {instantiate} = WebAssembly;
WebAssembly.instantiate = async (...values) => {
  const {exports} = await instantiate(...values);
  const sippet_thread_entry = () => { throw new WebAssembly.RuntimeError("unreachable"); };
  return {exports: {...exports, sippet_thread_entry}};
};
