/**
 * Lets the page start without a network. The host puts `FILES` (what the page consists of, by address) before this text,
 * so that another version of the page is another script, which browsers look for by themselves.
 *
 * Models are none of its business: those that are kept are in the origin's private file system.
 */

const CACHE = `sippet-page-${FILES.version}`;
const PATIENCE = 4000; // ms for a host that says nothing, where a copy is at hand
const REGISTRY = "/models/registry.json";
const ENGINE = new URL(location.href).searchParams.get("engine"); // the one build that this browser will run

self.addEventListener("install", (event) => {
  self.skipWaiting();
  const engine = ENGINE ? FILES.paths.filter((path) => path.endsWith(`/${ENGINE}.wasm`)) : [];
  const wanted = FILES.paths.filter((path) => !/\/engine\/[^/]*\.wasm$/.test(path)).concat(engine);
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(["/", ...wanted])));
});

self.addEventListener("activate", (event) => {
  event.waitUntil((async () => {
    for (const name of await caches.keys()) {
      if (name.startsWith("sippet-page-") && name !== CACHE) await caches.delete(name);
    }
    await self.clients.claim();
  })());
});

self.addEventListener("fetch", (event) => {
  const {request} = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== location.origin) return;
  const isPage = request.mode === "navigate" && url.pathname === "/";
  if (isPage || url.pathname === REGISTRY) event.respondWith(newest(request, url.pathname));
  else if (url.pathname.startsWith("/assets/")) event.respondWith(kept(request));
});

/**
 * The page, or the list of models, as it is now; or as it was, where the host is out of reach, broken or too slow.
 * @param {Request} request
 * @param {string} key under which it is kept
 */
async function newest(request, key) {
  const cache = await caches.open(CACHE);
  const before = await cache.match(key);
  const now = fetch(request).then(async (response) => {
    if (response.ok) await cache.put(key, response.clone());
    return response;
  });
  if (!before) return now;
  return Promise.race([
    now.then((response) => (response.status >= 500 ? before : response), () => before),
    new Promise((resolve) => setTimeout(resolve, PATIENCE, before)),
  ]);
}

/** A file whose address names its version: once here, it is never asked for again. @param {Request} request */
async function kept(request) {
  const cache = await caches.open(CACHE);
  const found = await cache.match(request.url);
  if (found) return found;
  const response = await fetch(request);
  if (response.ok && new URL(request.url).pathname.startsWith(`/assets/${FILES.version}/`)) {
    await cache.put(request.url, response.clone());
  }
  return response;
}
