/** A worker that has workers made for it, one after the other, and tells the page how many have started. */

import {makeWorker, serveWorker} from "./workers.mjs";

const CHILD = new URL("./hello_worker.mjs", import.meta.url);

serveWorker((port) => {
  port.onmessage = async ({data: {count}}) => {
    for (let started = 1; started <= count; started++) {
      const child = makeWorker(CHILD, {type: "module"});
      await new Promise((resolve) => (child.onmessage = resolve));
      child.terminate();
      port.postMessage(started);
    }
  };
});
