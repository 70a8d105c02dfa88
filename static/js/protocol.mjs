/**
 * What the page and the runtime say to each other, alone in this file; `sippet/protocol.py` is its other half and a
 * test keeps the two alike.
 *
 * Page to runtime:  {id, method, params}
 * Runtime to page:  {id, result} | {id, error} | {id, progress} | {id, tokens} | {id, step} | {id, call} | {event}
 *
 * `id` names a request; its last message is `result` or `error`. A `call` asks for a tool that is a function of the page,
 * which answers with the method `toolResult`. Values are plain data, and Files and Blobs.
 */

export const METHODS = Object.freeze([
  "open", "add", "remove", "query", "chat", "embed", "rerank", "tokenize", "detokenize", "applyTemplate", "runTools",
  "saveContext", "forgetContext", "toolResult", "models", "cancel", "environment", "close",
]);

export const REPLIES = Object.freeze(["result", "error", "progress", "tokens", "step", "call", "event"]);
