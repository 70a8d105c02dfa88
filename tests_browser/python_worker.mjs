/** Runs Python that a test sends, in a worker, with the built package: `{id, code, argument}` → `{id, value | error}`. */

import {loadPython} from "./runtime.mjs";
import {serveWorker} from "./workers.mjs";

const ready = loadPython();

serveWorker((port) => {
  port.onmessage = async ({data: {id, code, argument}}) => {
    try {
      const python = await ready;
      const globals = python.globals;
      globals.set("ARGUMENT", argument);
      globals.set("NOTE", (text) => port.postMessage({note: text}));
      port.postMessage({id, value: await python.runPythonAsync(code)});
    } catch (error) {
      port.postMessage({id, error: String(error?.message ?? error)});
    }
  };
});
