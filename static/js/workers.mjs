/**
 * Workers for the page and for its workers, all made by the page.
 *
 * A worker may make workers itself, but in Firefox (153) `new Worker` in a worker can hang for ever: it waits until the
 * browser has registered the new worker, on a condition variable that the new worker waits on as well, and only one of
 * the two is woken. With both cores busy that came once in 30 workers. A page does not wait there.
 */

import {trustedWorker} from "./trusted.mjs";

let maker = null; // in a worker: the port to the page that makes its workers
let lastId = 0;
const made = new Map(); // in a worker: what the page made for it, by number

/**
 * In a worker: have workers made by the page at the other end.
 * @param {MessagePort} port from the first message that `makeWorker` sends to a worker of ours
 */
export function useMaker(port) {
  maker = port;
  maker.onmessage = ({data: {id, message}}) => made.get(id)?.onerror?.({message, preventDefault() {}});
}

/**
 * As `new Worker(url, options)`: it has `onmessage`, `onerror`, `postMessage` and `terminate`.
 * @param {string | URL} url
 * @param {WorkerOptions} [options]
 * @param {{isOurs?: boolean}} [kind] `isOurs`: its script takes the message {maker, connect}: `maker` is for `useMaker`,
 *   `connect`, where there is one, the port to whom it serves
 */
export function makeWorker(url, options, {isOurs = false} = {}) {
  if (maker) return new DistantWorker(url, options, isOurs);
  return globalThis.document ? makeHere(url, options, isOurs) : trustedWorker(url, options);
}

/** A worker that the page made for this worker. */
class DistantWorker {
  #id = ++lastId;
  #port;
  onmessage = null;
  onerror = null;

  constructor(url, options, isOurs) {
    const {port1, port2} = new MessageChannel();
    this.#port = port1;
    this.#port.onmessage = (event) => this.onmessage?.(event);
    made.set(this.#id, this);
    const {href} = new URL(url, location.href); // relative to this worker, as in `new Worker`
    maker.postMessage({id: this.#id, url: href, options, isOurs, port: port2}, [port2]);
  }

  postMessage(message, transfer) {
    this.#port.postMessage(message, transfer);
  }

  terminate() {
    made.delete(this.#id);
    this.#port.close();
    maker.postMessage({id: this.#id, end: true});
  }
}

/**
 * @param {string | URL} url
 * @param {WorkerOptions | undefined} options
 * @param {boolean} isOurs
 * @param {MessagePort} [port] to the worker that it is made for
 */
function makeHere(url, options, isOurs, port) {
  const worker = trustedWorker(url, options);
  if (!isOurs) {
    if (port) {
      port.onmessage = ({data}) => worker.postMessage(data);
      worker.onmessage = ({data}) => port.postMessage(data);
    }
    return worker;
  }
  const {port1, port2} = new MessageChannel();
  const children = makeFor(port1);
  const end = worker.terminate.bind(worker);
  worker.terminate = () => {
    for (const child of children.values()) child.terminate();
    end();
  };
  worker.postMessage({maker: port2, connect: port}, port ? [port2, port] : [port2]);
  return worker;
}

/** Make workers for the worker at the other end of `port`. @returns {Map<number, Worker>} those that there are */
function makeFor(port) {
  const workers = new Map();
  port.onmessage = ({data: {id, end, url, options, isOurs, port: connection}}) => {
    if (end) {
      workers.get(id)?.terminate();
      workers.delete(id);
      return;
    }
    try {
      const worker = makeHere(url, options, isOurs, connection);
      worker.onerror = (event) => {
        event.preventDefault(); // it is taken care of by whom the worker was made for
        port.postMessage({id, message: event.message ?? ""});
      };
      workers.set(id, worker);
    } catch (error) {
      port.postMessage({id, message: String(error)});
    }
  };
  return workers;
}
