/**
 * What the page and the runtime say to each other, alone in this file; `sippet/protocol.py` is its other half and a
 * test keeps the two alike.
 *
 * Page to runtime:  {id, method, params}
 * Runtime to page:  {id, result} | {id, error} | {id, progress} | {id, tokens} | {id, step} | {id, call} | {event}
 *
 * `id` names a request; its last message is `result` or `error`. A `call` is of a function that the request brought, a
 * tool or one that gives a credential: the page answers with the method `callResult`, even when the request has ended.
 * Values are plain data, and Files and Blobs.
 */

export const METHODS = Object.freeze([
  "open", "add", "remove", "query", "chat", "embed", "rerank", "tokenize", "detokenize", "applyTemplate", "runTools",
  "saveContext", "forgetContext", "callResult", "models", "cancel", "environment", "close",
]);

export const REPLIES = Object.freeze(["result", "error", "progress", "tokens", "step", "call", "event"]);
