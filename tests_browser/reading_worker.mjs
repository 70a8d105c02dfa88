/**
 * A worker that has another one read what is in its own memory: `{size}` → `[offset, how many bytes came from there]`, in
 * the order of the requests, and then "done".
 */

import {makeWorker, serveWorker} from "./workers.mjs";

serveWorker((port) => {
  let reads = Promise.resolve();
  port.onmessage = ({data: {size, blob, at}}) => {
    if (size) {
      const reader = makeWorker(import.meta.url, {type: "module"}, {isOurs: true});
      reader.onmessage = ({data}) => port.postMessage(data);
      const held = new Blob([new Uint8Array(size)]);
      for (const offset of [size - 10, 0, size / 2]) reader.postMessage({blob: held, at: offset});
      reader.postMessage({});
    } else {
      reads = reads.then(async () => {
        port.postMessage(blob ? [at, (await blob.slice(at, at + 10).arrayBuffer()).byteLength] : "done");
      });
    }
  };
});
