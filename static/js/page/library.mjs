/** The user's conversations: which one is shown, kept, renamed, deleted, exported, imported. */

import {Conversation} from "./conversation.mjs";
import {byId, saveFile} from "./dom.mjs";
import {fileName, fromFile, toJsonFile, toMarkdownFile} from "./exchange.mjs";
import {plural} from "./format.mjs";
import {Sidebar} from "./sidebar.mjs";
import {Store} from "./store.mjs";

export class Library {
  /** @type {Conversation | null} */
  #current = null;
  /** Deleted ones, which a late answer must not bring back. @type {Set<string>} */
  #deleted = new Set();

  /**
   * @param {import("./notices.mjs").Notices} notices
   * @param {import("./contexts.mjs").Contexts} contexts
   * @param {(conversation: Conversation) => void} onShow
   */
  constructor(notices, contexts, onShow) {
    this.notices = notices;
    this.contexts = contexts;
    this.onShow = onShow;
    this.store = new Store();
    this.sidebar = new Sidebar(this.store, {
      onOpen: (id) => (location.hash = id),
      onRename: (id, name) => void this.rename(id, name),
      onDelete: (id) => void this.remove(id),
      onExport: (id) => void this.export(id),
    });
    byId("export-all").addEventListener("click", () => void this.exportAll());
    byId("save-markdown").addEventListener("click", () => this.saveAsMarkdown());
    const input = byId("import-file");
    input.addEventListener("change", async () => {
      await this.import([...input.files]);
      input.value = "";
    });
    this.store.addEventListener("change", (event) => void this.#onChange(/** @type {CustomEvent} */ (event).detail));
    addEventListener("hashchange", () => void this.open(location.hash.slice(1)));
  }

  /** The conversation that is shown. @param {Conversation} conversation */
  set current(conversation) {
    const before = this.#current;
    this.#current = conversation;
    this.sidebar.current = conversation.id;
    // A reload, and the browser's Back, come to the same conversation; an empty one is nothing to come back to.
    const hash = conversation.empty ? "" : `#${conversation.id}`;
    if (location.hash === hash) return;
    const moved = before && !before.empty && before.id !== conversation.id;
    history[moved ? "pushState" : "replaceState"](null, "", hash || location.pathname + location.search);
  }

  /**
   * @param {Conversation} conversation an empty one is not kept
   * @returns {Promise<boolean>} whether it outlives the page
   */
  async save(conversation) {
    if (conversation.empty || this.#deleted.has(conversation.id)) return false;
    await this.store.save(conversation);
    byId("kept").textContent = this.store.lasting
      ? "Kept in this browser only."
      : "This browser stores nothing here: conversations end with the page.";
    return this.store.lasting && !this.#deleted.has(conversation.id);
  }

  /** @param {string} id one that doesn't exist any more is a new one */
  async open(id) {
    if (id === this.#current?.id || (!id && this.#current?.empty)) return;
    this.onShow((id && await this.store.load(id)) || new Conversation());
  }

  /** @param {string} id @param {string} name empty: the first message serves again */
  async rename(id, name) {
    const conversation = id === this.#current?.id ? this.#current : await this.store.load(id);
    if (!conversation) return;
    conversation.name = name;
    await this.save(conversation);
    if (conversation === this.#current) this.onShow(conversation);
  }

  /** @param {string} id */
  async remove(id) {
    const conversation = await this.store.load(id);
    if (!conversation) return;
    this.#deleted.add(id);
    await this.store.remove(id);
    this.contexts.forget(id);
    if (id === this.#current?.id) this.onShow(new Conversation());
    const undo = async () => {
      this.#deleted.delete(id);
      await this.save(conversation);
      this.onShow(conversation);
    };
    this.notices.show(`“${conversation.title}” is deleted.`, {label: "Undo", run: () => void undo()});
  }

  /** @param {string} id */
  async export(id) {
    const conversation = await this.store.load(id);
    if (conversation) saveFile(fileName(conversation.title, "json"), toJsonFile([conversation]), "application/json");
  }

  /** The shown messages of the shown conversation, to read elsewhere. */
  saveAsMarkdown() {
    const conversation = this.#current;
    if (conversation) saveFile(fileName(conversation.title, "md"), toMarkdownFile(conversation), "text/markdown");
  }

  async exportAll() {
    const all = await this.store.loadAll();
    if (!all.length) return this.notices.show("There are no conversations to export yet.");
    saveFile("sippet-conversations.json", toJsonFile(all), "application/json");
  }

  /** @param {File[]} files */
  async import(files) {
    const taken = new Set((await this.store.list()).map(({id}) => id));
    /** @type {Conversation[]} */
    const imported = [];
    for (const file of files) {
      try {
        imported.push(...await fromFile(file, taken));
      } catch (error) {
        const why = error instanceof TypeError ? error.message : "it can't be read";
        return this.notices.showError(Object.assign(new Error(), {
          name: "SippError", code: "import", summary: `${file.name} was not imported: ${why}.`,
          hint: "Choose a file that this page exported.", details: {},
        }));
      }
    }
    if (!imported.length) return;
    for (const {id} of imported) this.#deleted.delete(id);
    await this.store.save(...imported);
    this.onShow(imported[0]);
    this.notices.show(`${plural(imported.length, "conversation")} imported.`);
  }

  /** Another tab may have gone on with the conversation that is shown here. @param {{id: string | null, elsewhere: boolean}} detail */
  async #onChange({id, elsewhere}) {
    if (!elsewhere || id === null || id !== this.#current?.id) return;
    const conversation = await this.store.load(id);
    this.onShow(conversation ?? new Conversation());
  }
}
