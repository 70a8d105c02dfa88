/** The chat page: wires its parts together. */

import {Announcer} from "./announcer.mjs";
import {Answer} from "./answer.mjs";
import {Composer} from "./composer.mjs";
import {Conversation} from "./conversation.mjs";
import {byId, fillIcons, iconButton} from "./dom.mjs";
import {Engine} from "./engine.mjs";
import {loadMarkdown} from "./markdown.mjs";
import {Notices} from "./notices.mjs";
import {ModelPicker, acceptDrops, choiceFromFiles} from "./picker.mjs";
import {ProgressView} from "./progress.mjs";
import {Follower} from "./scroll.mjs";
import {StatusView} from "./status.mjs";
import {Transcript} from "./transcript.mjs";

/** @typedef {import("./engine.mjs").Choice} Choice */

const SAMPLING = {temperature: 0.2, topP: 0.9, repeatPenalty: 1.1, maxTokens: 1024};

class ChatPage {
  /** @param {any} config what the host says: version, models, defaultModel */
  constructor(config) {
    this.conversation = new Conversation();
    /** @type {Answer | null} */
    this.answer = null;
    /** A message that was sent before there was a model. */
    this.sendOnceReady = false;
    /** @type {Choice | null} */
    this.lastChoice = null;

    this.engine = new Engine();
    this.announcer = new Announcer(byId("announcer"));
    this.notices = new Notices(byId("notices"));
    this.progress = new ProgressView(byId("progress"), () => this.engine.cancelLoad());
    this.status = new StatusView(this.engine, config);
    this.transcript = new Transcript(byId("transcript"), {
      onRegenerate: (id) => this.regenerate(id),
      actions: (message) => this.#actions(message),
    });
    this.composer = new Composer({onSend: (text) => this.send(text), onStop: () => this.answer?.stop()});
    this.follower = new Follower(byId("scroller"), byId("content"), byId("to-latest"));
    const picking = {models: config.models ?? [], defaultModel: config.defaultModel,
      onChoose: (/** @type {Choice} */ choice) => this.load(choice)};
    new ModelPicker(byId("welcome-picker"), picking);
    new ModelPicker(byId("model-picker"), picking);
    this.#wire();
    this.#refresh();
  }

  #wire() {
    byId("new-chat").addEventListener("click", () => this.newChat());
    byId("model-button").addEventListener("click", () => byId("model-dialog").showModal());
    acceptDrops(byId("drop-veil"), (files) => this.load(choiceFromFiles(files)));
    for (const dialog of document.querySelectorAll("dialog")) {
      // A click beside the dialog's content closes it.
      dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    }
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.answer && !document.querySelector("dialog[open]")) this.answer.stop();
    });
    this.engine.addEventListener("change", () => this.#refresh());
    this.engine.addEventListener("progress", (event) => {
      this.progress.update(/** @type {CustomEvent} */ (event).detail);
    });
  }

  /** Boots Python; what fails is shown with a way to try again. */
  async start() {
    try {
      await this.engine.start();
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
    const loading = this.engine.load(choice);
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
      }
    } finally {
      if (this.engine.model !== "loading") this.progress.stop();
    }
  }

  /** @param {string} text @returns {boolean} whether it was taken */
  send(text) {
    if (this.answer) return false;
    if (this.engine.model === "none") {
      this.sendOnceReady = true;
      this.notices.show("Choose a model: your message will be sent to it.");
      const first = document.querySelector("#welcome-picker button");
      if (this.conversation.empty && first instanceof HTMLElement) first.focus();
      else byId("model-dialog").showModal();
      return false;
    }
    this.conversation.add("user", text);
    void this.respond();
    return true;
  }

  /** Asks the model for an answer to the last shown message. */
  async respond() {
    this.notices.clear();
    const {conversation} = this;
    const message = conversation.add("assistant", "");
    const {engine, transcript, announcer} = this;
    this.answer = new Answer({engine, conversation, message, transcript, announcer, options: SAMPLING});
    this.#refresh();
    this.follower.follow();
    try {
      await this.answer.run();
    } finally {
      this.answer = null;
      this.#refresh();
    }
  }

  /** Another answer to the same message. @param {string} id of the answer so far */
  regenerate(id) {
    if (this.answer) return;
    if (this.engine.model === "none") {
      if (!this.lastChoice) return byId("model-dialog").showModal();
      void this.load(this.lastChoice);
    }
    this.conversation.head = this.conversation.get(id).parent;
    void this.respond();
  }

  newChat() {
    this.answer?.stop();
    this.notices.clear();
    this.conversation = new Conversation();
    this.#refresh();
    this.composer.focus();
  }

  /** @param {import("./conversation.mjs").Message} message */
  #actions(message) {
    if (message.role === "user") return [];
    return [iconButton("retry", "Answer again", () => this.regenerate(message.id))];
  }

  #refresh() {
    const {engine, conversation} = this;
    const loaded = engine.model !== "none";
    document.title = conversation.empty ? "Sippet" : `${conversation.title} – Sippet`;
    byId("model-name").textContent = loaded ? engine.choice?.name : "Choose a model";
    byId("welcome").hidden = !conversation.empty;
    byId("welcome-picker").hidden = loaded;
    byId("welcome-ready").hidden = !loaded;
    byId("new-chat").disabled = conversation.empty;
    this.composer.setBusy(this.answer !== null);
    this.transcript.show(conversation.path());
    this.answer?.show();
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
void loadMarkdown().then((loaded) => loaded && page.transcript.refresh());
void page.start();
