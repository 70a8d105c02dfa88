/**
 * Workers under Trusted Types: script URLs are trusted when they are the page's own origin or one that was named.
 */

const origins = new Set([globalThis.location?.origin]);
const policy = globalThis.trustedTypes?.createPolicy("sippet", {
  createScriptURL(url) {
    if (!isTrusted(url)) throw new TypeError(`${url} is not of a trusted origin`);
    return url;
  },
});

/** Also trust scripts of these origins. @param {Iterable<string>} more */
export function trustOrigins(more) {
  for (const origin of more) origins.add(new URL(origin, location.href).origin);
}

/** @param {string | URL} url */
export function isTrusted(url) {
  return origins.has(new URL(url, globalThis.location?.href).origin);
}

/**
 * `new Worker(url, options)` with the check above.
 * @param {string | URL} url
 * @param {WorkerOptions} [options]
 */
export function trustedWorker(url, options) {
  return new Worker(trustedScriptUrl(url), options);
}

/** A script's address as `register` and `Worker` take it, with the check above. @param {string | URL} url @returns {any} */
export function trustedScriptUrl(url) {
  return policy ? policy.createScriptURL(String(url)) : url;
}
