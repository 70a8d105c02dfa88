// Runs functions of _bytecode.py inside Pyodide on Node.js, so that the byte code is the target interpreter's own.
// usage: node _bytecode.mjs JOB.json, a job being {pyodide, library, script, steps: [{call, input, output}]}, all paths.
import {readFile, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import {pathToFileURL} from 'node:url';

const job = JSON.parse(await readFile(process.argv[2], 'utf8'));
const {loadPyodide} = await import(pathToFileURL(join(job.pyodide, 'pyodide.mjs')).href);
const python = await loadPyodide({indexURL: job.pyodide, stdLibURL: job.library});
python.runPython(await readFile(job.script, 'utf8'));
for (const {call, input, output} of job.steps) {
  const rewrite = python.globals.get(call);
  const archive = python.toPy(new Uint8Array(await readFile(input)));
  const plain = archive.tobytes();
  const result = rewrite(plain);
  await writeFile(output, result.toJs());
  for (const proxy of [rewrite, archive, plain, result]) proxy.destroy();
}
// The version tells the caller which interpreter made the byte code.
console.log(python.runPython('import platform; platform.python_version()'));
process.exit(0);
