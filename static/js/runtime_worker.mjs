/** The runtime worker: Python, off the page's thread. */

import {serveRuntime} from "./runtime.mjs";

serveRuntime(globalThis);
