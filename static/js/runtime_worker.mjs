/** The runtime worker: Python, off the page's thread. */

import {serveRuntime} from "./runtime.mjs";
import {serveWorker} from "./workers.mjs";

serveWorker(serveRuntime);
