/**
 * Workers for the page and for its workers, all made by the page.
 *
 * A worker may make workers itself, but in Firefox (153) `new Worker` in a worker can hang for ever: it waits until the
 * browser has registered the new worker, on a condition variable that the new worker waits on as well, and only one of
 * the two is woken. With both cores busy that came once in 30 workers. A page does not wait there.
 *
 * What a worker and one that was made for it say to each other goes through a port, but for messages with a Blob: in
 * Firefox (153) one that is held in memory can, once it has come through a port, be read from its beginning only;
 * reading further in waits for ever. The page carries such a message, from worker to worker, and the port tells when it
 * is its turn.
 */

import {trustedWorker} from "./trusted.mjs";

let maker = null; // in a worker: the port to the page that makes its workers
let lastId = 0;
let lastCarried = 0;
const made = new Map(); // in a worker: what the page made for it, by number

/**
 * In a worker's script: serve who uses the worker, which is who made it, or another worker that it was made for.
 * @param {(port: {postMessage: Function, onmessage: ?Function, close: Function}) => void} serve
 */
export function serveWorker(serve) {
  let connection = null;
  const {postMessage, close} = globalThis;
  const own = {postMessage: postMessage.bind(globalThis), close: close.bind(globalThis), onmessage: null};
  serve(own);
  globalThis.onmessage = ({data}) => {
    if (data.maker) {
      useMaker(data.maker);
      if (data.connect) serve((connection = new Connection(data.connect)));
    } else if (data.carried) {
      connection.bring(data);
    } else {
      own.onmessage({data});
    }
  };
}

function useMaker(port) {
  maker = port;
  maker.onmessage = ({data: {id, message}}) => made.get(id)?.onerror?.({message, preventDefault() {}});
}

/**
 * As `new Worker(url, options)`: it has `onmessage`, `onerror`, `postMessage` and `terminate`.
 * @param {string | URL} url
 * @param {WorkerOptions} [options]
 * @param {{isOurs?: boolean}} [kind] `isOurs`: its script calls `serveWorker`
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
    if (!holdsBlob(message)) return this.#port.postMessage(message, transfer);
    const carried = ++lastCarried;
    globalThis.postMessage({carryTo: this.#id, carried, message});
    this.#port.postMessage({carried});
  }

  terminate() {
    made.delete(this.#id);
    this.#port.close();
    maker.postMessage({id: this.#id, end: true});
  }
}

function holdsBlob(value) {
  if (value instanceof Blob) return true;
  const isPlain = Array.isArray(value) || (value && Object.getPrototypeOf(value) === Object.prototype);
  return isPlain && Object.values(value).some(holdsBlob);
}

/** In a worker that was made for another one: the other end of its `DistantWorker`. */
class Connection {
  #port;
  #queue = []; // messages whose turn has not come
  #brought = new Map(); // those that the page carried, by number
  onmessage = null;

  constructor(port) {
    this.#port = port;
    port.onmessage = ({data}) => {
      this.#queue.push(data);
      this.#deliver();
    };
  }

  postMessage(message, transfer) {
    this.#port.postMessage(message, transfer);
  }

  close() {
    this.#port.close();
  }

  bring({carried, message}) {
    this.#brought.set(carried, message);
    this.#deliver();
  }

  #deliver() {
    for (; this.#queue.length; this.#queue.shift()) {
      const {carried} = this.#queue[0];
      if (carried && !this.#brought.has(carried)) return;
      const data = carried ? this.#brought.get(carried) : this.#queue[0];
      this.#brought.delete(carried);
      this.onmessage({data});
    }
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
  const children = new Children(port1);
  worker.addEventListener("message", (event) => {
    if (!event.data?.carryTo) return;
    event.stopImmediatePropagation(); // it is not for whoever uses the worker
    children.carry(event.data);
  });
  const end = worker.terminate.bind(worker);
  worker.terminate = () => {
    children.end();
    end();
  };
  worker.postMessage({maker: port2, connect: port}, port ? [port2, port] : [port2]);
  return worker;
}

/** In the page: the workers that are made for the worker at the other end of a port. */
class Children {
  #workers = new Map(); // by number
  #newest = 0;
  #early = []; // messages to workers that are still to be made, for these come another way

  constructor(port) {
    port.onmessage = ({data: {id, end, ...wanted}}) => {
      if (end) {
        this.#workers.get(id)?.terminate();
        this.#workers.delete(id);
      } else {
        this.#make(id, wanted, (message) => port.postMessage({id, message}));
      }
    };
  }

  #make(id, {url, options, isOurs, port}, fail) {
    this.#newest = id;
    try {
      const worker = makeHere(url, options, isOurs, port);
      worker.onerror = (event) => {
        event.preventDefault(); // it is taken care of by whom the worker was made for
        fail(event.message ?? "");
      };
      this.#workers.set(id, worker);
    } catch (error) {
      fail(String(error));
    }
    for (const wanted of this.#early.splice(0)) this.carry(wanted);
  }

  carry({carryTo, carried, message}) {
    if (carryTo > this.#newest) this.#early.push({carryTo, carried, message});
    else this.#workers.get(carryTo)?.postMessage({carried, message});
  }

  end() {
    for (const worker of this.#workers.values()) worker.terminate();
  }
}
