/**
 * The storage worker: files of the private file system that are open for writing, and bodies of downloads on their way
 * into them. Python decides what happens; here a model's bytes pass from the network to the disk without touching it.
 *
 * Messages in; the sender chooses `id` and the numbers of files and bodies:
 *   {id, op, ...}          see `OPERATIONS`                       → {id, result}
 *   without `id`           the same, and nobody waits for an answer
 * While `receive` goes on                                         → {id, position, notes}, where `notes` are the records
 *                                                                   that were added to the journal since the last one
 * A failure                                                       → {id, error: {kind, name, message}}, where `kind` is
 *                                                                   "network" or "storage"
 */

import {serveWorker} from "./workers.mjs";

const TELL_EVERY = 100; // ms, of how far it is; each time costs Python as much as a piece of the model
const TELL_OF_CHUNKS = 25; // ms, of those that are whole
const PART = 1; // kinds of notes in the journal, as in `sippet/platform/notes.py`
const WHOLE = 2;
const RECORD = 48; // bytes
const PIECE = 512 << 10; // bytes that are read at once

const files = new Map();
const bodies = new Map();
const turn = new MessageChannel();
const turns = []; // who waits for it
turn.port1.onmessage = () => turns.shift()();

class NetworkFailure extends Error {
  constructor(error) {
    super(error?.message ?? String(error));
    this.name = error?.name ?? "Error";
  }
}

const OPERATIONS = {
  async open({file, handle}) {
    files.set(file, await handle.createSyncAccessHandle());
  },

  close({file}) {
    files.get(file).close();
    files.delete(file);
  },

  read({file, at, length}) {
    const bytes = new Uint8Array(length);
    return bytes.slice(0, files.get(file).read(bytes, {at}));
  },

  write({file, at, data}) {
    write(file, at, data);
  },

  append({file, data}) {
    write(file, files.get(file).getSize(), data);
  },

  flush({file}) {
    files.get(file).flush();
  },

  resize({file, size}) {
    files.get(file).truncate(size);
  },

  /** The SHA-256 of a part of a file; nothing where the file ends before it. */
  async digest({file, at, length}) {
    const bytes = OPERATIONS.read({file, at, length});
    return bytes.length < length ? null : sha256(bytes);
  },

  /** Send a request, whose answer's body is to be received. */
  async fetch({body, url, options}) {
    const controller = new AbortController();
    bodies.set(body, {controller}); // so that it can be ended before it is there
    try {
      const response = await fetch(url, {...options, signal: controller.signal});
      if (bodies.has(body)) bodies.set(body, bodyOf(response.body, controller));
      return {status: response.status, url: response.url, headers: [...response.headers]};
    } catch (error) {
      throw new NetworkFailure(error);
    }
  },

  /** A part of a file that the user picked, to be received like the body of an answer. */
  pick({body, blob, start}) {
    bodies.set(body, bodyOf(blob.slice(start).stream(), new AbortController()));
  },

  /** Let go of a body, whatever is going on with it: who receives it has come to its end. */
  end({body}) {
    const source = bodies.get(body);
    if (!source) return;
    source.ended = true;
    clearInterval(source.watch);
    bodies.delete(body);
    source.controller.abort();
    source.reader?.cancel().catch(() => {});
  },

  /** The next piece of a body; nothing at its end. */
  async piece({body, patience}) {
    return (await take(bodies.get(body), Infinity, patience))?.slice(); // a copy, which is given away
  },

  /**
   * Write what a body brings to a file, from `start` to `end`, or to the body's end where there is none, and note in the
   * journal what is there: a part of a chunk after `every` bytes, and however this ends; a chunk once it is complete, at
   * each multiple of `chunkSize` and at the end. Chunks to `keep` are only hashed.
   */
  async receive({body, file, start, end, chunkSize, keep, patience, journal, index, every, hashParts}, tell) {
    const source = bodies.get(body);
    const kept = new Set(keep);
    const memory = new Uint8Array(Math.min(chunkSize, end ?? Infinity));
    let position = start;
    let written = start; // up to where the file has what came: many small writes are slow, above all in Firefox
    let noted = start;
    let begin = start - (start % chunkSize); // where the chunk begins that is being filled
    memory.set(OPERATIONS.read({file, at: begin, length: start - begin}));

    const save = () => {
      const piece = memory.subarray(written - begin, position - begin);
      if (piece.length && !kept.has(begin / chunkSize)) write(file, written, piece);
      written = position;
    };
    const hashes = [];
    let news = []; // the records that Python does not know
    let hasChunk = false; // whether one of them is of a whole chunk
    let told = performance.now();
    const tellAll = () => {
      tell(position, joined(news));
      news = [];
      hasChunk = false;
      told = performance.now();
    };
    const note = (kind, hash) => {
      const chunk = begin / chunkSize;
      const filled = position - begin;
      const make = (sha256) => {
        const added = record(index, chunk, filled, kind, sha256);
        if (!kept.has(chunk)) OPERATIONS.append({file: journal, data: added});
        news.push(added);
        hasChunk ||= kind === WHOLE;
      };
      if (hash) hashes.push(hash.then(make));
      else make(new Uint8Array(32));
      noted = position;
    };
    const notePart = () => {
      save();
      note(PART, hashParts && sha256(memory.subarray(noted - begin, position - begin)));
    };
    const noteWhole = () => {
      save();
      note(WHOLE, sha256(memory.subarray(0, position - begin)));
      begin = position;
    };

    try {
      while (position < (end ?? Infinity)) {
        const limit = Math.min(begin + chunkSize, end ?? Infinity);
        const piece = await take(source, limit - position, patience);
        if (!piece) break;
        memory.set(piece, position - begin);
        position += piece.length;
        if (position === limit) noteWhole();
        else if (position - noted >= every) notePart();
        if (performance.now() - told < (hasChunk ? TELL_OF_CHUNKS : TELL_EVERY)) continue;
        tellAll();
        await takeMessages();
      }
      if (end === undefined && !source.ended && position > begin) noteWhole();
    } finally {
      if (every && position > noted) notePart();
      await Promise.all(hashes).finally(tellAll);
    }
  },
};

/** A record of the journal, as `sippet/platform/notes.py` has it. */
function record(index, chunk, filled, kind, sha256) {
  const bytes = new Uint8Array(RECORD);
  const view = new DataView(bytes.buffer);
  [index, chunk, filled, kind].forEach((value, i) => view.setUint32(4 * i, value, true));
  bytes.set(sha256, 16);
  return bytes;
}

function joined(records) {
  const bytes = new Uint8Array(RECORD * records.length);
  records.forEach((record, i) => bytes.set(record, RECORD * i));
  return bytes;
}

/** A body to be read: where the browser can, into memory that is used again, which is a quarter faster. */
function bodyOf(stream, controller) {
  const body = {controller, rest: null, memory: null, reader: null, watch: null, deadline: Infinity};
  try {
    body.reader = stream?.getReader({mode: "byob"});
    body.memory = new ArrayBuffer(PIECE);
  } catch { // no stream of bytes
    body.reader = stream.getReader();
  }
  return body;
}

/**
 * The next bytes of a body, `most` at most; null at its end, or once it was let go of. They stay what they are until the
 * next ones are asked for.
 */
async function take(source, most, patience) {
  if (!source?.reader) return null;
  const piece = source.rest ?? (await next(source, patience));
  source.rest = piece?.length > most ? piece.subarray(most) : null;
  return source.rest ? piece.subarray(0, most) : piece;
}

async function next(source, patience) {
  if (patience) source.watch ??= setInterval(() => endSilence(source), 250 * patience);
  source.deadline = performance.now() + 1000 * (patience ?? Infinity);
  try {
    const {reader, memory} = source;
    const {done, value} = await (memory ? reader.read(new Uint8Array(memory)) : reader.read());
    if (memory && value) source.memory = value.buffer; // it was away for as long as it was being filled
    return done ? null : value;
  } catch (error) {
    if (source.ended) return null;
    throw new NetworkFailure(error);
  } finally {
    source.deadline = Infinity;
  }
}

/** A timer for each read would take longer than the read. */
function endSilence({deadline, controller}) {
  if (performance.now() > deadline) controller.abort(new DOMException("nothing came", "TimeoutError"));
}

function write(file, at, bytes) {
  const count = files.get(file).write(bytes, {at});
  // A full disk is also told by a short count: 0 in Firefox, 2**32 - 8 in Chromium.
  if (count !== bytes.length) throw new DOMException(`${bytes.length} bytes did not fit`, "QuotaExceededError");
}

async function sha256(bytes) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)); // takes a copy first: the memory is free again
}

/** Let the messages be taken that wait: as long as there is something to read, reading goes before them. */
function takeMessages() {
  return new Promise((resolve) => {
    turns.push(resolve);
    turn.port2.postMessage(null);
  });
}

function serve(port) {
  port.onmessage = async ({data: {id, op, ...fields}}) => {
    try {
      const result = await OPERATIONS[op](fields, (position, notes) => port.postMessage({id, position, notes}));
      if (id !== undefined) port.postMessage({id, result}, result instanceof Uint8Array ? [result.buffer] : []);
    } catch (error) {
      const kind = error instanceof NetworkFailure ? "network" : "storage";
      if (id !== undefined) port.postMessage({id, error: {kind, name: error.name, message: error.message}});
    }
  };
}

serveWorker(serve);
