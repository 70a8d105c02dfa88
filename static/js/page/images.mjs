/**
 * Images for models that see: chosen, pasted or dropped, made small, shown and sent. They are kept as `data:` URLs in
 * the conversation, and drawn on canvases, so that the page's policy needs no `data:` or `blob:` source.
 */

import {el, iconButton} from "./dom.mjs";

/** Larger sides are scaled down: models look at a few hundred pixels, and storage is not for free. */
const LONGEST_SIDE = 1024;
const MOST_IMAGES = 8;
const PREVIEW = 160;

/** @param {File} file */
export function isImage(file) {
  return file.type.startsWith("image/");
}

/**
 * An image as a `data:` URL of at most {@link LONGEST_SIDE} pixels; what else the file said (place, camera) is gone.
 * @param {Blob} file
 * @returns {Promise<string>}
 */
async function read(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.ceil(bitmap.width * scale), Math.ceil(bitmap.height * scale));
  canvas.getContext("2d")?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const blob = await canvas.convertToBlob({type: file.type === "image/png" ? "image/png" : "image/jpeg", quality: 0.9});
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** A drawing of an image. @param {string} url @param {string} label */
export function preview(url, label) {
  const canvas = el("canvas", {class: "preview", role: "img", "aria-label": label, width: 0, height: 0});
  void draw(canvas, url).catch(() => canvas.setAttribute("aria-label", `${label} (damaged)`));
  return canvas;
}

/** @param {HTMLCanvasElement} canvas @param {string} url */
async function draw(canvas, url) {
  const [head, body] = url.split(",");
  const bytes = Uint8Array.from(atob(body), (character) => character.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], {type: head.slice(5, head.indexOf(";"))}));
  const scale = Math.min(1, PREVIEW / Math.max(bitmap.width, bitmap.height));
  canvas.width = Math.ceil(bitmap.width * scale);
  canvas.height = Math.ceil(bitmap.height * scale);
  canvas.getContext("2d")?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
}

/** The images that the next message takes along. */
export class Attachments {
  /** @type {string[]} */
  #urls = [];

  /**
   * @param {{root: HTMLElement, input: HTMLInputElement, button: HTMLElement, prompt: HTMLElement}} parts
   * @param {(text: string) => void} onProblem
   */
  constructor({root, input, button, prompt}, onProblem) {
    this.root = root;
    this.button = button;
    this.onProblem = onProblem;
    this.enabled = false;
    button.addEventListener("click", () => input.click());
    input.addEventListener("change", async () => {
      await this.add([...(input.files ?? [])]);
      input.value = "";
    });
    prompt.addEventListener("paste", (/** @type {ClipboardEvent} */ event) => {
      const files = [...(event.clipboardData?.files ?? [])].filter(isImage);
      if (!files.length) return;
      event.preventDefault();
      void this.add(files);
    });
  }

  /** Whether the model can see. @param {boolean} enabled */
  set enabled(enabled) {
    this.button.hidden = !enabled;
    this.can = enabled;
  }

  /** @param {File[]} files */
  async add(files) {
    if (!this.can) {
      this.onProblem("This model reads text only. Open a model that sees together with its projector (mmproj) file.");
      return;
    }
    for (const file of files) {
      if (this.#urls.length >= MOST_IMAGES) return this.onProblem(`A message takes at most ${MOST_IMAGES} images.`);
      try {
        this.#urls.push(await read(file));
      } catch {
        this.onProblem(`${file.name} is no image that this browser can read.`);
      }
    }
    this.#show();
  }

  /** Hands the images over. @returns {string[]} */
  take() {
    const urls = this.#urls;
    this.#urls = [];
    this.#show();
    return urls;
  }

  #show() {
    this.root.hidden = this.#urls.length === 0;
    this.root.replaceChildren(...this.#urls.map((url, index) => el("li", {}, preview(url, `Image ${index + 1}`),
      iconButton("close", `Remove image ${index + 1}`, () => {
        this.#urls = this.#urls.filter((other) => other !== url);
        this.#show();
      }))));
  }
}
