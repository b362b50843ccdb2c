/** Shows what a click at the pointer would give: an object that was found before, else a preview of the model. */

export class Hover {
  #session;
  #stage;
  #segmenter;
  #findAll;
  #isFound = false;

  /**
   * @param {import("./session.js").Session} session
   * @param {import("./stage.js").Stage} stage
   * @param {import("./segmenter.js").Segmenter} segmenter
   * @param {import("./find_all.js").FindAll} findAll
   */
  constructor(session, stage, segmenter, findAll) {
    this.#session = session;
    this.#stage = stage;
    this.#segmenter = segmenter;
    this.#findAll = findAll;
  }

  /** @param {{x: number, y: number} | null} position pixels of the image; null where the pointer is elsewhere */
  show(position) {
    if (this.showFound(position)) return;
    this.#segmenter.hover(this.#session.selected.prompt === null && !this.#findAll.isOpen ? position : null);
  }

  /** Show only objects that were found before, without a request. @param {{x: number, y: number} | null} position @returns {boolean} whether there is one */
  showFound(position) {
    return this.#draw(this.#findAll.hover(position));
  }

  /** Show the next larger one of the found objects at the pointer. @returns {boolean} whether there is one */
  next() {
    return this.#draw(this.#findAll.next());
  }

  /** @param {import("../client/edgesam.js").Mask | null} found @returns {boolean} */
  #draw(found) {
    if (found) this.#segmenter.hover(null);
    if (found || this.#isFound) this.#stage.draw({ preview: found });
    this.#isFound = found !== null;
    return found !== null;
  }
}
