/** Runs Python that a test sends, in a worker, with the built package: `{id, code, argument}` → `{id, value | error}`. */

import {loadPython} from "./runtime.mjs";

const ready = loadPython();

onmessage = async ({data: {id, code, argument}}) => {
  try {
    const python = await ready;
    const globals = python.globals;
    globals.set("ARGUMENT", argument);
    globals.set("NOTE", (text) => postMessage({note: text}));
    postMessage({id, value: await python.runPythonAsync(code)});
  } catch (error) {
    postMessage({id, error: String(error?.message ?? error)});
  }
};
