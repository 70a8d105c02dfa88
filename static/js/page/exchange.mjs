/** Conversations as files: JSON to keep and to bring back, Markdown to read. Imported files are trusted in nothing. */

import {Conversation, newId} from "./conversation.mjs";

const MOST_BYTES = 100_000_000;

/** @param {Conversation[]} conversations */
export function toJsonFile(conversations) {
  return JSON.stringify({format: "sippet-export", version: 1, conversations}, null, 1);
}

/** @param {Conversation} conversation its shown path */
export function toMarkdownFile(conversation) {
  const parts = [`# ${conversation.title}`];
  if (conversation.systemPrompt) parts.push(`## Instructions\n\n${conversation.systemPrompt}`);
  for (const {role, text, model} of conversation.path()) {
    parts.push(`## ${role === "user" ? "You" : model ?? "Assistant"}\n\n${text}`);
  }
  return `${parts.join("\n\n")}\n`;
}

/**
 * Reads an export, or a single conversation. Each gets an id of its own where the file's is taken already.
 *
 * @param {File} file
 * @param {Set<string>} taken ids in use
 * @returns {Promise<Conversation[]>}
 * @throws {TypeError} that says what is wrong
 */
export async function fromFile(file, taken) {
  if (file.size > MOST_BYTES) throw new TypeError("it is too large");
  let data;
  try {
    data = JSON.parse(await file.text());
  } catch {
    throw new TypeError("it is not JSON");
  }
  const list = data?.format === "sippet-export" ? data.conversations : [data];
  if (!Array.isArray(list)) throw new TypeError("it holds no list of conversations");
  return list.map((each) => {
    const conversation = Conversation.fromJSON(each);
    if (taken.has(conversation.id)) conversation.id = newId();
    taken.add(conversation.id);
    return conversation;
  });
}

/** A file name for a conversation. @param {string} title @param {string} extension */
export function fileName(title, extension) {
  const stem = title.normalize("NFKD").replace(/[^\w-]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 60).toLowerCase();
  return `${stem || "conversation"}.${extension}`;
}
