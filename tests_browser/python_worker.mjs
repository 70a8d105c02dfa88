/** Runs Python that a test sends, in a worker, with the built package: `{id, code, argument}` → `{id, value | error}`. */

import {loadPyodide} from "/static/vendor/pyodide/pyodide.mjs";

const BUILT = new URL("/static/runtime/", location.href).href;

async function boot() {
  const lock = await (await fetch(`${BUILT}pyodide-lock.json`)).text();
  return loadPyodide({
    indexURL: new URL("/static/vendor/pyodide/", location.href).href,
    stdLibURL: `${BUILT}python_stdlib.zip`,
    lockFileContents: lock,
    packageBaseUrl: BUILT,
    packages: ["sippet"],
  });
}

const ready = boot();

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
