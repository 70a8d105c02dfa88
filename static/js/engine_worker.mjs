/** The engine worker: one loaded model. Ending it gives all of its memory back. */

import {serveEngine} from "./engine_host.mjs";
import {serveWorker} from "./workers.mjs";

serveWorker(serveEngine);
