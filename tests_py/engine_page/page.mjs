// Lets a test call the engine worker: `await engine('open', {...})`.
let worker;
let last = 0;
const waiting = new Map();

function receive({ data }) {
  const { resolve, reject } = waiting.get(data.id);
  waiting.delete(data.id);
  if (data.error) reject(new Error(JSON.stringify(data.error)));
  else resolve(data.value);
}

globalThis.engine = (name, ...args) => {
  if (!worker) {
    worker = new Worker('worker.mjs', { type: 'module' });
    worker.onmessage = receive;
  }
  const id = ++last;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, name, args });
  });
};

globalThis.endWorker = () => {
  worker?.terminate();
  worker = undefined;
};
