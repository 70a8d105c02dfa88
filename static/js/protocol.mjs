/**
 * What the page and the runtime say to each other, alone in this file; `sippet/protocol.py` is its other half and a
 * test keeps the two alike.
 *
 * Page to runtime:  {id, method, params}
 * Runtime to page:  {id, result} | {id, error} | {id, progress} | {id, tokens} | {event}
 *
 * `id` names a request; its last message is `result` or `error`. Values are plain data, and Files and Blobs.
 */

export const METHODS = Object.freeze([
  "open", "add", "remove", "query", "chat", "cancel", "environment", "close",
]);

export const REPLIES = Object.freeze(["result", "error", "progress", "tokens", "event"]);
