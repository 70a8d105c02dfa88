/** The engine worker with no Python: what sends it a message and hands over its replies. */

import {makeWorker} from "../workers.mjs";

export function startWorker() {
  const worker = makeWorker(new URL("../engine_worker.mjs", import.meta.url), {type: "module"}, {isOurs: true});
  let lastId = 0;
  const listeners = new Map();
  worker.onmessage = ({data}) => listeners.get(data.id)?.(data);
  worker.onerror = (event) => {
    for (const listener of listeners.values()) listener({error: {message: event.message || "the worker failed"}});
  };
  const send = (message, listener) => {
    const id = ++lastId;
    listeners.set(id, listener);
    worker.postMessage({...message, id});
  };
  const failure = ({message, log}) => new Error([message, ...(log ?? []).slice(-3)].join(" | "));
  return {
    /** One request, one reply. */
    ask: (message) =>
      new Promise((resolve, reject) =>
        send(message, (reply) => (reply.error ? reject(failure(reply.error)) : resolve(reply))),
      ),
    /** A stream's replies, up to its last. @param {(reply: object) => void} onReply */
    stream: (message, onReply) =>
      new Promise((resolve, reject) =>
        send({...message, op: "stream"}, (reply) => {
          try {
            if (reply.error) throw failure(reply.error);
            onReply(reply);
            if (reply.last) resolve();
          } catch (error) {
            reject(error);
          }
        }),
      ),
  };
}
