/** What callers give, looked at before it is taken apart: what is wrong gets a clear error, not the language's own. */

import {SippError} from "./errors.mjs";

/** An error that names an option. */
export function invalid(option, message, hint = "") {
  return new SippError({code: "invalid_option", message, hint, details: {option}});
}

/** Options, or none. @param {any} value @param {string} [name] @returns {object} */
export function optionsOf(value, name = "options") {
  if (value === undefined || value === null) return {};
  if (Object.prototype.toString.call(value) === "[object Object]") return value; // no list, Date, Map or node
  throw invalid(name, `${name} must be an object, not ${kindOf(value)}.`, "Give {name: value, …}, or leave it out.");
}

/** A list. @param {any} value @param {string} name @returns {any[]} */
export function listOf(value, name) {
  if (Array.isArray(value)) return value;
  throw invalid(name, `${name} must be a list, not ${kindOf(value)}.`, "Give an array.");
}

/** A function, or none. @param {any} value @param {string} name @returns {?Function} */
export function callbackOf(value, name) {
  if (value === undefined || value === null || typeof value === "function") return value;
  throw invalid(name, `${name} must be a function, not ${kindOf(value)}.`, "Give a function, or leave it out.");
}

/** A signal, or none. @param {any} value @returns {?AbortSignal} */
export function signalOf(value) {
  if (value === undefined || value === null || value instanceof AbortSignal) return value;
  throw invalid("signal", `signal must be an AbortSignal, not ${kindOf(value)}.`, "Give an AbortController's signal.");
}

/** The error for what no message can carry, which names where it is. @param {object} params */
export function unsendable(params) {
  const {path, value} = unsendableIn(params, [], new Set());
  const option = path.filter((part) => part !== "options" && part !== "descriptor").join(".");
  return invalid(option, `${option} holds ${kindOf(value)}, which can't be sent to Python.`,
    "Give plain data: texts, numbers, lists, objects, Files and Blobs.");
}

function unsendableIn(value, path, seen) {
  seen.add(value);
  const children = value && typeof value === "object" ? Object.entries(value) : [];
  for (const [name, child] of children) {
    if (!seen.has(child) && !isSendable(child)) return unsendableIn(child, [...path, name], seen);
  }
  return {path, value};
}

function isSendable(value) {
  try {
    structuredClone(value);
    return true;
  } catch {
    return false;
  }
}

function kindOf(value) {
  if (value === null || value === undefined) return String(value);
  if (typeof value !== "object") return `a ${typeof value}`;
  return Array.isArray(value) ? "a list" : `an object of type ${value.constructor?.name ?? "null"}`;
}
