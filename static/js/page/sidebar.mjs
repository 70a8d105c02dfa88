/** The list of conversations: choose, search, rename, delete, export, import. */

import {byId, el, iconButton} from "./dom.mjs";

const NARROW = matchMedia("(max-width: 899.98px)");
const SEARCH_PAUSE = 150;

/** @typedef {import("./store.mjs").Entry} Entry */

/**
 * @typedef {object} SidebarHandlers
 * @property {(id: string) => void} onOpen
 * @property {(id: string, name: string) => void} onRename
 * @property {(id: string) => void} onDelete
 * @property {(id: string) => void} onExport
 */

export class Sidebar {
  /** @type {string | null} the conversation that is shown */
  #current = null;
  #timer = 0;

  /**
   * @param {import("./store.mjs").Store} store
   * @param {SidebarHandlers} handlers
   */
  constructor(store, handlers) {
    this.store = store;
    this.handlers = handlers;
    this.root = byId("sidebar");
    this.list = byId("conversations");
    this.empty = byId("no-conversations");
    this.search = byId("search");
    this.toggleButton = byId("toggle-sidebar");
    this.veil = byId("sidebar-veil");
    this.toggleButton.addEventListener("click", () => this.toggle());
    this.veil.addEventListener("click", () => this.toggle(false));
    this.search.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = window.setTimeout(() => void this.refresh(), SEARCH_PAUSE);
    });
    this.root.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#onKey(event));
    NARROW.addEventListener("change", () => this.#place());
    store.addEventListener("change", () => void this.refresh());
    this.#place();
    void this.refresh();
  }

  get open() {
    return !this.root.hidden;
  }

  /** @param {boolean} [open] */
  toggle(open = !this.open) {
    const hadFocus = this.root.contains(document.activeElement);
    this.#show(open);
    if (!NARROW.matches) localStorage.setItem("sippet.sidebar", open ? "open" : "closed");
    else if (open) this.search.focus();
    if (!open && hadFocus) this.toggleButton.focus();
  }

  focusSearch() {
    this.#show(true);
    this.search.focus();
    this.search.select();
  }

  /** @param {string} id of the conversation that is shown */
  set current(id) {
    if (id === this.#current) return;
    this.#current = id;
    for (const item of this.list.children) mark(item, item.dataset.id === id);
  }

  async refresh() {
    const query = this.search.value.trim();
    const entries = query ? await this.store.search(query) : await this.store.list();
    if (query !== this.search.value.trim()) return;
    const renaming = this.list.querySelector("input");
    if (renaming) return; // a change elsewhere must not take away what is being typed
    const focused = document.activeElement?.closest?.("li")?.dataset.id;
    this.list.replaceChildren(...entries.map((entry) => this.#item(entry)));
    this.empty.hidden = entries.length > 0;
    this.empty.textContent = query ? "Nothing found." : "Your conversations will be listed here.";
    if (focused) this.list.querySelector(`[data-id="${CSS.escape(focused)}"] button`)?.focus();
  }

  /** @param {Entry} entry */
  #item(entry) {
    const open = () => {
      this.handlers.onOpen(entry.id);
      if (NARROW.matches) this.toggle(false);
    };
    const item = el("li", {data: {id: entry.id}},
      el("button", {type: "button", class: "entry", dir: "auto", title: entry.title, text: entry.title, on: {click: open}}),
      el("span", {class: "entry-actions"},
        iconButton("edit", `Rename ${entry.title}`, () => this.#rename(item, entry)),
        iconButton("download", `Export ${entry.title}`, () => this.handlers.onExport(entry.id)),
        iconButton("trash", `Delete ${entry.title}`, () => this.handlers.onDelete(entry.id)),
      ));
    mark(item, entry.id === this.#current);
    return item;
  }

  /** @param {HTMLElement} item @param {Entry} entry */
  #rename(item, entry) {
    const input = el("input", {type: "text", value: entry.title, "aria-label": "Name of the conversation", maxlength: 200});
    let finished = false;
    const finish = (/** @type {boolean} */ keep) => {
      if (finished) return; // taking the field away blurs it
      finished = true;
      const name = input.value.trim();
      input.remove();
      if (keep && name !== entry.title) this.handlers.onRename(entry.id, name);
      else void this.refresh();
    };
    input.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
      event.preventDefault();
      event.stopPropagation();
      finish(event.key === "Enter");
    });
    input.addEventListener("blur", () => finish(true));
    item.replaceChildren(input);
    input.focus();
    input.select();
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (event.key === "Escape" && NARROW.matches) {
      event.stopPropagation();
      this.toggle(false);
    }
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const entries = [this.search, ...this.list.querySelectorAll(".entry")];
    const index = entries.indexOf(document.activeElement);
    if (index < 0) return;
    event.preventDefault();
    entries[Math.min(entries.length - 1, Math.max(0, index + (event.key === "ArrowDown" ? 1 : -1)))].focus();
  }

  /** Beside the conversation where there is room, over it where there is not. */
  #place() {
    this.#show(!NARROW.matches && localStorage.getItem("sippet.sidebar") !== "closed");
  }

  /** @param {boolean} open */
  #show(open) {
    this.root.hidden = !open;
    this.veil.hidden = !open || !NARROW.matches;
    this.toggleButton.setAttribute("aria-expanded", String(open));
    document.body.classList.toggle("with-sidebar", open);
  }
}

/** @param {Element} item @param {boolean} current */
function mark(item, current) {
  const button = item.querySelector(".entry");
  if (current) button?.setAttribute("aria-current", "true");
  else button?.removeAttribute("aria-current");
}
