/** Makes the page start without a network, from the next visit on. */

import {likelyBuild} from "../environment.mjs";
import {trustedScriptUrl} from "../trusted.mjs";

/** Private windows and plain HTTP have no service workers; there the page needs its host. @returns {Promise<boolean>} */
export async function workOffline() {
  try {
    // Of several engine builds only this browser's own is kept.
    await navigator.serviceWorker.register(trustedScriptUrl(`/service_worker.js?engine=${likelyBuild(true)}`));
    return true;
  } catch (error) {
    console.info("The page can't be kept for use without a network:", error);
    return false;
  }
}
