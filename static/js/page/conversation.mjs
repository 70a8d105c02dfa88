/**
 * A conversation: a tree of messages of which one path is shown. Editing a message or asking for another answer adds a
 * sibling, so nothing that was written is lost. No DOM here.
 */

/**
 * @typedef {object} Message
 * @property {string} id
 * @property {string | null} parent
 * @property {"user" | "assistant"} role
 * @property {string} text
 * @property {string[]} [images] `data:` URLs
 * @property {string} [reasoning]
 * @property {number} created milliseconds since 1970
 * @property {string} [model] name of the model that answered
 * @property {string} [finish] finish reason
 * @property {Stats} [stats]
 * @property {{code: string, message: string, hint: string}} [error]
 *
 * @typedef {object} Stats counts in tokens, times in milliseconds
 * @property {number} [promptTokens]
 * @property {number} [cachedTokens]
 * @property {number} [completionTokens]
 * @property {number} [timeToFirstTokenMs]
 * @property {number} [tokensPerSecond]
 */

/** What an image may be, and nothing else. */
const IMAGE = /^data:image\/(?:png|jpeg);base64,[A-Za-z0-9+/]+=*$/;

const FORMAT = "sippet-conversation";
const VERSION = 1;
const MOST_MESSAGES = 20_000;
const MOST_TEXT = 5_000_000;
const STATS = ["promptTokens", "cachedTokens", "completionTokens", "timeToFirstTokenMs", "tokensPerSecond"];

/** `crypto.randomUUID` is missing outside secure contexts, where the page still has to work. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Conversation {
  constructor() {
    this.id = newId();
    /** A name that the user gave; otherwise the first message serves. */
    this.name = "";
    this.systemPrompt = "";
    this.created = Date.now();
    this.updated = this.created;
    /** @type {Map<string, Message>} in the order in which they were written */
    this.messages = new Map();
    /** @type {string | null} the last message of the path that is shown */
    this.head = null;
  }

  get title() {
    if (this.name) return this.name;
    const first = this.path()[0]?.text.trim().replace(/\s+/g, " ") ?? "";
    return first.length > 60 ? `${first.slice(0, 59)}…` : first || "New conversation";
  }

  get empty() {
    return this.messages.size === 0;
  }

  /**
   * Adds a message after `parent` and shows the path to it.
   * @param {"user" | "assistant"} role
   * @param {string} text
   * @param {string | null} [parent] by default the end of the shown path
   * @returns {Message}
   */
  add(role, text, parent = this.head) {
    /** @type {Message} */
    const message = {id: newId(), parent, role, text, created: Date.now()};
    this.messages.set(message.id, message);
    this.head = message.id;
    this.updated = message.created;
    return message;
  }

  /** @param {string} id @returns {Message} */
  get(id) {
    const message = this.messages.get(id);
    if (!message) throw new RangeError(`no message ${id}`);
    return message;
  }

  /** The shown messages, first to last; or those up to `end`. @param {string | null} [end] @returns {Message[]} */
  path(end = this.head) {
    const path = [];
    for (let id = end; id !== null; ) {
      const message = this.get(id);
      path.push(message);
      id = message.parent;
    }
    return path.reverse();
  }

  /** The variants of a message, itself included, oldest first. @param {string} id */
  siblings(id) {
    const {parent} = this.get(id);
    return [...this.messages.values()].filter((message) => message.parent === parent);
  }

  /** Shows the path through this message, to the newest message after it. @param {string} id */
  show(id) {
    const newestChild = new Map();
    for (const message of this.messages.values()) newestChild.set(message.parent, message.id);
    let end = this.get(id).id;
    while (newestChild.has(end)) end = newestChild.get(end);
    this.head = end;
  }

  /** Removes a message and everything after it. @param {string} id */
  remove(id) {
    const {parent} = this.get(id);
    const doomed = new Set([id]);
    for (const message of this.messages.values()) {
      if (message.parent !== null && doomed.has(message.parent)) doomed.add(message.id);
    }
    for (const each of doomed) this.messages.delete(each);
    this.updated = Date.now();
    if (this.head === null || !doomed.has(this.head)) return;
    const variant = [...this.messages.values()].filter((message) => message.parent === parent).pop();
    if (variant) this.show(variant.id);
    else this.head = parent;
  }

  /**
   * What a model is asked: the path up to `end`. Answers that failed without a word are left out, and neighbours of
   * one role are joined, because many chat templates refuse anything but strict turns.
   *
   * @param {string | null} [end]
   * @returns {{role: string, content: string | object[]}[]}
   */
  prompt(end = this.head) {
    /** @type {{role: string, text: string, images: string[]}[]} */
    const turns = this.systemPrompt.trim() ? [{role: "system", text: this.systemPrompt.trim(), images: []}] : [];
    for (const {role, text, images = []} of this.path(end)) {
      if (!text) continue;
      const last = turns.at(-1);
      if (last?.role === role) {
        last.text += `\n\n${text}`;
        last.images.push(...images);
      } else {
        turns.push({role, text, images: [...images]});
      }
    }
    return turns.map(({role, text, images}) => ({role, content: images.length === 0 ? text : [
      ...images.map((url) => ({type: "image_url", image_url: {url}})), {type: "text", text}]}));
  }

  toJSON() {
    const {id, name, systemPrompt, created, updated, head} = this;
    return {format: FORMAT, version: VERSION, id, name, systemPrompt, created, updated, head,
      messages: [...this.messages.values()]};
  }

  /**
   * Reads what {@link Conversation#toJSON} wrote, trusting nothing: unknown fields are dropped, wrong ones refused.
   * @param {any} data
   * @returns {Conversation}
   * @throws {TypeError} that says what is wrong
   */
  static fromJSON(data) {
    if (data?.format !== FORMAT) throw new TypeError("it is not a Sippet conversation");
    if (data.version !== VERSION) throw new TypeError(`its version is ${text(data.version, 20)}, not ${VERSION}`);
    if (!Array.isArray(data.messages) || data.messages.length > MOST_MESSAGES) {
      throw new TypeError("its messages are not a list of sensible length");
    }
    const conversation = new Conversation();
    conversation.id = identifier(data.id, "the conversation");
    conversation.name = text(data.name ?? "", 200);
    conversation.systemPrompt = text(data.systemPrompt ?? "", MOST_TEXT);
    conversation.created = time(data.created);
    conversation.updated = time(data.updated);
    for (const each of data.messages) {
      const message = readMessage(each);
      if (conversation.messages.has(message.id)) throw new TypeError(`two messages have the id ${message.id}`);
      // A parent comes before its children: this also rules out circles.
      if (message.parent !== null && !conversation.messages.has(message.parent)) {
        throw new TypeError(`message ${message.id} follows one that does not exist`);
      }
      conversation.messages.set(message.id, message);
    }
    const last = [...conversation.messages.keys()].pop() ?? null;
    conversation.head = conversation.messages.has(data.head) ? data.head : last;
    return conversation;
  }
}

/** @param {any} data @returns {Message} */
function readMessage(data) {
  if (data?.role !== "user" && data?.role !== "assistant") throw new TypeError("a message has no known role");
  /** @type {Message} */
  const message = {
    id: identifier(data.id, "a message"),
    parent: data.parent === null ? null : identifier(data.parent, "a message's parent"),
    role: data.role,
    text: text(data.text, MOST_TEXT),
    created: time(data.created),
  };
  if (data.images) message.images = readImages(data.images);
  if (data.reasoning) message.reasoning = text(data.reasoning, MOST_TEXT);
  if (data.model) message.model = text(data.model, 200);
  if (data.finish) message.finish = text(data.finish, 40);
  if (data.stats) {
    const known = STATS.filter((name) => Number.isFinite(data.stats[name]));
    message.stats = Object.fromEntries(known.map((name) => [name, data.stats[name]]));
  }
  if (data.error) {
    const {code, message: what, hint} = data.error;
    message.error = {code: text(code, 60), message: text(what, 2000), hint: text(hint ?? "", 2000)};
  }
  return message;
}

/** @param {any} list */
function readImages(list) {
  if (!Array.isArray(list) || list.length > 100) throw new TypeError("images are not a list of sensible length");
  return list.map((url) => {
    if (!IMAGE.test(text(url, MOST_TEXT))) throw new TypeError("an image is not PNG or JPEG data");
    return url;
  });
}

/** @param {any} value @param {string} owner */
function identifier(value, owner) {
  if (typeof value !== "string" || !/^[\w-]{1,64}$/.test(value)) throw new TypeError(`${owner} has no valid id`);
  return value;
}

/** @param {any} value @param {number} most */
function text(value, most) {
  if (typeof value !== "string") throw new TypeError("a text is missing");
  if (value.length > most) throw new TypeError(`a text is longer than ${most} characters`);
  return value;
}

/** @param {any} value */
function time(value) {
  return Number.isFinite(value) && value > 0 && value < 8e15 ? value : Date.now();
}
