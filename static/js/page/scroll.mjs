/** Keeps the end of the conversation in view, until the reader scrolls up; then offers a way back. */

const NEAR = 48;

export class Follower {
  #scroller;
  #button;
  #following = false;
  #resting = true;
  #top = 0;

  /**
   * @param {HTMLElement} scroller
   * @param {HTMLElement} content what grows in it
   * @param {HTMLButtonElement} button "to the latest message"
   */
  constructor(scroller, content, button) {
    this.#scroller = scroller;
    this.#button = button;
    scroller.addEventListener("scroll", () => this.#onScroll(), {passive: true});
    button.addEventListener("click", () => this.follow());
    const observer = new ResizeObserver(() => this.#settle());
    observer.observe(content);
    observer.observe(scroller);
  }

  /** To the end, and on from there. */
  follow() {
    this.#following = true;
    this.#resting = false;
    this.#settle();
  }

  /** To the beginning, and staying there: nothing to follow yet. */
  rest() {
    this.#following = false;
    this.#resting = true;
    this.#scroller.scrollTop = 0;
    this.#settle();
  }

  #settle() {
    if (this.#following) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#top = this.#scroller.scrollTop;
    this.#show();
  }

  /** Moving up is the reader's wish to stay, moving down to the end the wish to follow; growing content moves nothing. */
  #onScroll() {
    const {scrollTop} = this.#scroller;
    if (scrollTop < this.#top) this.#following = false;
    else if (scrollTop > this.#top && this.#distance() < NEAR) this.#following = !this.#resting;
    this.#top = scrollTop;
    this.#show();
  }

  #distance() {
    const {scrollHeight, scrollTop, clientHeight} = this.#scroller;
    return scrollHeight - scrollTop - clientHeight;
  }

  #show() {
    this.#button.hidden = this.#resting || this.#following || this.#distance() < NEAR;
  }
}
