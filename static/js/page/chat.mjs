/** The chat page: wires its parts together. */

import {Announcer} from "./announcer.mjs";
import {Answer} from "./answer.mjs";
import {Composer} from "./composer.mjs";
import {Contexts} from "./contexts.mjs";
import {Conversation} from "./conversation.mjs";
import {byId, fillIcons} from "./dom.mjs";
import {Engine} from "./engine.mjs";
import {Attachments, isImage} from "./images.mjs";
import {Keeper} from "./keeper.mjs";
import {Library} from "./library.mjs";
import {loadMarkdown} from "./markdown.mjs";
import {Notices} from "./notices.mjs";
import {workOffline} from "./offline.mjs";
import {ModelPicker, acceptDrops, choiceFromFiles} from "./picker.mjs";
import {ProgressView} from "./progress.mjs";
import {Follower} from "./scroll.mjs";
import {Settings} from "./settings.mjs";
import {bindShortcuts} from "./shortcuts.mjs";
import {ContextMeter, StatusView} from "./status.mjs";
import {StoragePanel} from "./storage.mjs";
import {Transcript} from "./transcript.mjs";

/** @typedef {import("./engine.mjs").Choice} Choice */

class ChatPage {
  /** @param {any} config what the host says: version, models, defaultModel */
  constructor(config) {
    this.conversation = new Conversation();
    /** @type {Answer | null} the one being written, perhaps in another conversation than the one that is shown */
    this.answer = null;
    /** A message was sent before there was a model. */
    this.sendOnceReady = false;
    /** @type {Choice | null} */
    this.lastChoice = null;

    this.engine = new Engine();
    this.announcer = new Announcer(byId("announcer"));
    this.notices = new Notices(byId("notices"));
    this.progress = new ProgressView(byId("progress"), () => this.engine.cancelLoad());
    this.status = new StatusView(this.engine, config);
    this.meter = new ContextMeter();
    this.settings = new Settings({onSystemPrompt: (text) => this.instruct(text)});
    this.transcript = new Transcript(byId("transcript"), {
      variant: (id) => this.#variant(id),
      onVariant: (id, by) => this.showVariant(id, by),
      onRegenerate: (id) => this.regenerate(id),
      onEdit: (id, text) => this.edit(id, text),
      onDelete: (id) => this.deleteMessage(id),
    });
    this.composer = new Composer({
      onSend: (text) => this.send(text),
      onStop: () => this.answer?.stop(),
      onEditLast: () => this.editLast(),
    });
    this.attachments = new Attachments({root: byId("attachments"), input: byId("image-file"), button: byId("attach"),
      prompt: byId("prompt")}, (text) => this.notices.show(text));
    this.follower = new Follower(byId("scroller"), byId("content"), byId("to-latest"));
    this.contexts = new Contexts(this.engine);
    this.library = new Library(this.notices, this.contexts, (conversation) => this.show(conversation));
    const picking = {
      models: config.models ?? [],
      defaultModel: config.defaultModel,
      onChoose: (/** @type {Choice} */ choice) => this.load(choice),
      onKeep: (/** @type {any} */ model) => {
        byId("model-dialog").close();
        void this.keeper.keep(model);
      },
      onDiscard: (/** @type {any} */ model) => {
        byId("model-dialog").close(); // an error would be hidden behind it
        void this.keeper.discard(model);
      },
    };
    this.storage = new StoragePanel(this.engine, {onRemove: picking.onDiscard});
    this.pickers = [byId("welcome-picker"), byId("model-picker")].map((root) => new ModelPicker(root, picking));
    this.keeper = new Keeper(this.engine, this.notices, (kept) => this.pickers.forEach((picker) => picker.show(kept)));
    this.#wire();
    const asked = location.hash.slice(1);
    this.newChat();
    if (asked) void this.library.open(asked);
  }

  #wire() {
    const settings = () => this.settings.show(this.conversation.systemPrompt);
    byId("new-chat").addEventListener("click", () => this.newChat());
    byId("model-button").addEventListener("click", () => this.chooseModel());
    byId("settings-button").addEventListener("click", settings);
    byId("show-shortcuts").addEventListener("click", () => byId("shortcuts-dialog").showModal());
    acceptDrops(byId("drop-veil"), (files) => this.drop(files));
    for (const dialog of document.querySelectorAll("dialog")) {
      // A click beside the dialog's content closes it.
      dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    }
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.answer && !document.querySelector("dialog[open]")) this.answer.stop();
    });
    bindShortcuts([
      {key: "o", shift: true, does: "New chat", run: () => this.newChat()},
      {key: "k", does: "Search conversations", run: () => this.library.sidebar.focusSearch()},
      {key: "b", does: "Show or hide the conversations", run: () => this.library.sidebar.toggle()},
      {key: "m", shift: true, does: "Choose a model", run: () => this.chooseModel()},
      {key: ",", does: "Settings", run: settings},
    ]);
    this.engine.addEventListener("change", () => this.#refresh());
    this.engine.addEventListener("progress", (event) => {
      this.progress.update(/** @type {CustomEvent} */ (event).detail);
    });
    document.addEventListener("visibilitychange", () => document.hidden && this.#save());
  }

  /** Boots Python; what fails is shown with a way to try again. */
  async start() {
    try {
      await this.engine.start();
      await this.keeper.refresh();
      const limit = await this.engine.memoryLimit();
      this.pickers.forEach((picker) => picker.limit(limit));
      void this.contexts.sweep(() => this.library.store.list());
      void workOffline(); // not earlier: it must not slow the start
    } catch (error) {
      this.notices.showError(error, {label: "Try again", run: () => void this.start()});
    }
  }

  /** @param {Choice} choice */
  async load(choice) {
    byId("model-dialog").close();
    this.answer?.stop();
    this.lastChoice = choice;
    this.notices.clear();
    this.progress.start(choice.name);
    this.composer.focus();
    const loading = this.engine.load(choice, this.settings.contextFor(choice));
    if (this.sendOnceReady) {
      this.sendOnceReady = false;
      this.composer.submit();
    }
    try {
      await loading;
      this.announcer.say(`${choice.name} is ready.`);
    } catch (error) {
      if (isCancelled(error)) this.announcer.say("Loading was cancelled.");
      else if (error !== this.engine.failure) {
        this.notices.showError(error, {label: "Try again", run: () => void this.load(choice)});
        if (error?.code === "model_not_found") void this.keeper.refresh(); // the browser may have thrown it away
      }
    } finally {
      if (this.engine.model !== "loading") this.progress.stop();
    }
  }

  /** @param {File[]} files images go along with the next message, all else is a model */
  drop(files) {
    if (files.every(isImage)) void this.attachments.add(files);
    else void this.load(choiceFromFiles(files));
  }

  /** @param {string} text @returns {boolean} whether it was taken */
  send(text) {
    if (this.answer) return false;
    if (this.engine.model === "none") {
      this.sendOnceReady = true;
      this.notices.show("Choose a model: your message will be sent to it.");
      const first = document.querySelector("#welcome-picker .model-buttons .button");
      if (this.conversation.empty && first instanceof HTMLElement) first.focus();
      else this.chooseModel();
      return false;
    }
    const images = this.attachments.take();
    const message = this.conversation.add("user", text);
    if (images.length) message.images = images;
    void this.respond();
    return true;
  }

  /** Asks the model for an answer to the last shown message. */
  async respond() {
    this.notices.clear();
    const {conversation, engine, transcript, announcer} = this;
    const message = conversation.add("assistant", "");
    const options = this.settings.sampling;
    this.answer = new Answer({engine, conversation, message, transcript, announcer, options});
    this.contexts.wait();
    this.library.save(conversation);
    this.#refresh();
    this.follower.follow();
    try {
      await this.answer.run();
    } finally {
      this.answer = null;
      conversation.updated = Date.now();
      void this.library.save(conversation).then((kept) => {
        if (kept) this.contexts.keep(conversation.id);
        else this.contexts.rest();
      });
      this.#refresh();
    }
  }

  /** Another answer to the same message. @param {string} id of the answer so far */
  regenerate(id) {
    this.#again(() => {
      this.conversation.head = this.conversation.get(id).parent;
    });
  }

  /** Another wording of a message, and an answer to it. @param {string} id @param {string} text */
  edit(id, text) {
    this.#again(() => {
      const {parent, images} = this.conversation.get(id);
      Object.assign(this.conversation.add("user", text, parent), images && {images});
    });
  }

  /** @param {() => void} prepare makes the end of the shown path what is to be answered */
  #again(prepare) {
    if (this.answer) return this.notices.show("Wait for the answer that is being written, or stop it first.");
    if (this.engine.model === "none") {
      if (!this.lastChoice) return this.chooseModel();
      void this.load(this.lastChoice);
    }
    prepare();
    void this.respond();
  }

  editLast() {
    const last = this.conversation.path().findLast(({role}) => role === "user");
    if (last) this.transcript.edit(last.id);
  }

  /** @param {string} id @param {number} by */
  showVariant(id, by) {
    const siblings = this.conversation.siblings(id);
    const target = siblings[siblings.findIndex((message) => message.id === id) + by];
    if (!target || this.#writing) return;
    this.conversation.show(target.id);
    this.library.save(this.conversation);
    this.#refresh();
    // The buttons that were used belong to the variant that has gone.
    const step = by < 0 ? "Previous variant" : "Next variant";
    const message = document.querySelector(`[data-id="${CSS.escape(target.id)}"]`);
    const button = message?.querySelector(`[aria-label="${step}"]:enabled`) ?? message?.querySelector(".actions button:enabled");
    if (button instanceof HTMLElement) button.focus();
  }

  /** @param {string} id */
  deleteMessage(id) {
    const {conversation} = this;
    if (this.#writing) this.answer?.stop();
    const before = conversation.toJSON();
    conversation.remove(id);
    this.library.save(conversation);
    this.contexts.forget(conversation.id);
    this.#refresh();
    const undo = () => {
      this.library.save(Conversation.fromJSON(before));
      if (this.conversation === conversation) this.show(Conversation.fromJSON(before));
    };
    this.notices.show("The message and what followed it are deleted.", {label: "Undo", run: undo});
    this.composer.focus();
  }

  /** @param {string} text */
  instruct(text) {
    this.conversation.systemPrompt = text;
    if (!this.conversation.empty) this.library.save(this.conversation);
  }

  /** Opens the dialog with the models and what they take. */
  chooseModel() {
    byId("model-dialog").showModal();
    if (this.engine.runtime === "ready") void this.storage.refresh();
  }

  newChat() {
    const conversation = new Conversation();
    conversation.systemPrompt = this.settings.defaultPrompt;
    this.show(conversation);
    this.composer.focus();
  }

  /** @param {Conversation} conversation */
  show(conversation) {
    // One that is being written to lives here, not in the store.
    this.conversation = this.answer?.conversation.id === conversation.id ? this.answer.conversation : conversation;
    this.notices.clear();
    this.#refresh();
    if (this.conversation.empty) this.follower.rest();
    else this.follower.follow();
  }

  /** Whether the conversation that is shown is being written to. */
  get #writing() {
    return this.answer?.conversation === this.conversation;
  }

  /** @param {string} id */
  #variant(id) {
    const siblings = this.conversation.siblings(id);
    return {index: siblings.findIndex((message) => message.id === id) + 1, count: siblings.length};
  }

  #save() {
    if (this.answer) this.library.save(this.answer.conversation);
  }

  #refresh() {
    const {engine, conversation} = this;
    const loaded = engine.model !== "none";
    const path = conversation.path();
    this.library.current = conversation;
    this.settings.choice = engine.choice;
    document.title = conversation.empty ? "Sippet" : `${conversation.title} – Sippet`;
    byId("chat-title").textContent = conversation.empty ? "New chat" : conversation.title;
    byId("model-name").textContent = engine.choice?.name ?? "Choose a model";
    byId("welcome").hidden = !conversation.empty;
    byId("welcome-picker").hidden = loaded;
    byId("welcome-ready").hidden = !loaded;
    byId("save-markdown").disabled = conversation.empty;
    this.attachments.enabled = engine.info?.hasVision === true;
    this.composer.setBusy(this.answer !== null);
    this.transcript.show(path);
    if (this.#writing) this.answer?.show();
    const stats = path.findLast((message) => message.stats)?.stats;
    this.meter.show((stats?.promptTokens ?? 0) + (stats?.completionTokens ?? 0), engine.info?.nCtx);
  }
}

/** @param {any} error */
function isCancelled(error) {
  return error?.code === "cancelled" || error?.name === "AbortError";
}

fillIcons(document);
const page = new ChatPage(JSON.parse(byId("sippet-config").textContent));
document.documentElement.dataset.ready = "";
if (matchMedia("(pointer: fine)").matches) page.composer.focus();
void loadMarkdown().then((loaded) => loaded && page.transcript.redraw());
void page.start();
