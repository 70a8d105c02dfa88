/**
 * Conversations in this browser's IndexedDB, and nowhere else. Where the browser gives no storage (some private
 * windows), they live as long as the page.
 */

import {Conversation} from "./conversation.mjs";

const DATABASE = "sippet";
const VERSION = 1;
const WHOLE = "conversations";
const INDEX = "titles";

/** @typedef {{id: string, title: string, updated: number}} Entry a line of the list */

/** Events: `change` (detail: `id`, null for many; `elsewhere`, whether another tab made the change). */
export class Store extends EventTarget {
  /** @type {Promise<IDBDatabase> | null} */
  #database = null;
  /** Where there is no database. @type {Map<string, any>} */
  #memory = new Map();
  #channel = new BroadcastChannel("sippet-conversations");
  /** Whether what is saved outlives the page. */
  lasting = true;

  constructor() {
    super();
    this.#channel.onmessage = ({data}) => this.#tell(data, true);
  }

  /** @returns {Promise<Entry[]>} the newest first */
  async list() {
    const entries = await this.#run([INDEX], "readonly", (transaction) => transaction.objectStore(INDEX).getAll());
    const all = entries ?? [...this.#memory.values()].map((data) => entryOf(Conversation.fromJSON(data)));
    return all.sort((/** @type {Entry} */ a, /** @type {Entry} */ b) => b.updated - a.updated);
  }

  /**
   * Those in whose title or messages all the words occur.
   * @param {string} query
   * @returns {Promise<Entry[]>}
   */
  async search(query) {
    const words = query.toLocaleLowerCase().split(/\s+/).filter(Boolean);
    const found = new Set();
    for (const data of await this.#everything()) {
      const text = [data.name, ...data.messages.map((/** @type {any} */ message) => message.text)].join("\n");
      if (words.every((word) => text.toLocaleLowerCase().includes(word))) found.add(data.id);
    }
    return (await this.list()).filter((entry) => found.has(entry.id));
  }

  /** @param {string} id @returns {Promise<Conversation | null>} */
  async load(id) {
    const data = await this.#run([WHOLE], "readonly", (transaction) => transaction.objectStore(WHOLE).get(id))
      ?? this.#memory.get(id);
    return data ? revive(data) : null;
  }

  /** @returns {Promise<Conversation[]>} */
  async loadAll() {
    return (await this.#everything()).map(revive).filter((conversation) => conversation !== null);
  }

  /** @param {...Conversation} conversations */
  async save(...conversations) {
    const all = conversations.map((conversation) => conversation.toJSON());
    const saved = await this.#run([WHOLE, INDEX], "readwrite", (transaction) => {
      for (const data of all) transaction.objectStore(WHOLE).put(data);
      for (const conversation of conversations) transaction.objectStore(INDEX).put(entryOf(conversation));
      return true;
    });
    if (!saved) for (const data of all) this.#memory.set(data.id, data);
    this.#changed(conversations.length === 1 ? conversations[0].id : null);
  }

  /** @param {string} id */
  async remove(id) {
    this.#memory.delete(id);
    await this.#run([WHOLE, INDEX], "readwrite", (transaction) => {
      for (const name of [WHOLE, INDEX]) transaction.objectStore(name).delete(id);
      return true;
    });
    this.#changed(id);
  }

  /** @returns {Promise<any[]>} */
  async #everything() {
    const all = await this.#run([WHOLE], "readonly", (transaction) => transaction.objectStore(WHOLE).getAll());
    return all ?? [...this.#memory.values()];
  }

  /**
   * One transaction: resolves when it is complete, to what `work` returned or to its request's result; to null where
   * there is no storage.
   *
   * @param {string[]} stores
   * @param {IDBTransactionMode} mode
   * @param {(transaction: IDBTransaction) => any} work
   * @returns {Promise<any>}
   */
  async #run(stores, mode, work) {
    try {
      const database = await (this.#database ??= openDatabase());
      return await new Promise((resolve, reject) => {
        const transaction = database.transaction(stores, mode);
        const outcome = work(transaction);
        transaction.oncomplete = () => resolve(outcome instanceof IDBRequest ? outcome.result : outcome);
        transaction.onabort = transaction.onerror = () => reject(transaction.error);
      });
    } catch (error) {
      console.warn("Conversations can't be stored:", error);
      this.lasting = false;
      return null;
    }
  }

  /** @param {string | null} id */
  #changed(id) {
    this.#channel.postMessage(id);
    this.#tell(id, false);
  }

  /** @param {string | null} id @param {boolean} elsewhere */
  #tell(id, elsewhere) {
    this.dispatchEvent(new CustomEvent("change", {detail: {id, elsewhere}}));
  }
}

/** @param {Conversation} conversation @returns {Entry} */
function entryOf({id, title, updated}) {
  return {id, title, updated};
}

/** What can't be read (another version of the page wrote it, say) stays where it is. @param {any} data */
function revive(data) {
  try {
    return Conversation.fromJSON(data);
  } catch (error) {
    console.warn(`Conversation ${data.id} can't be read:`, error);
    return null;
  }
}

/** @returns {Promise<IDBDatabase>} */
function openDatabase() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, VERSION);
    request.onupgradeneeded = () => {
      for (const name of [WHOLE, INDEX]) request.result.createObjectStore(name, {keyPath: "id"});
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("another tab holds an older version of the database"));
  });
}
