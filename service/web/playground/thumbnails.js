/** The strip of thumbnails below the image. It is hidden while fewer than two images are open. */

/** @typedef {import("./workspace.js").WorkImage} WorkImage */

export class Thumbnails {
  #workspace;
  #parts;
  /** @type {Map<WorkImage, HTMLElement>} */
  #rows = new Map();

  /**
   * @param {import("./workspace.js").Workspace} workspace
   * @param {object} parts elements of index.html
   * @param {HTMLElement} parts.strip
   * @param {HTMLElement} parts.list
   * @param {HTMLTemplateElement} parts.template of one image
   * @param {HTMLElement} parts.position gets "2 of 5"
   * @param {HTMLButtonElement} parts.previous
   * @param {HTMLButtonElement} parts.next
   * @param {(image: WorkImage) => void} onClose called when the user wants to close an image
   */
  constructor(workspace, parts, onClose) {
    this.#workspace = workspace;
    this.#parts = parts;
    this.onClose = onClose;
    parts.previous.addEventListener("click", () => workspace.step(-1));
    parts.next.addEventListener("click", () => workspace.step(1));
    workspace.addEventListener("change", () => this.#update());
    workspace.addEventListener("work", ({ detail: image }) => this.#describe(image));
    this.#update();
  }

  /** Say how many of several files are opened. @param {number} done @param {number} count */
  showOpening(done, count) {
    this.#parts.strip.classList.toggle("is-opening", done < count);
    if (done < count) this.#parts.position.textContent = `Opening ${done + 1} of ${count}…`;
    else this.#update();
  }

  #update() {
    const images = this.#workspace.images();
    const { strip, list, position, previous, next } = this.#parts;
    for (const [image, row] of this.#rows) {
      if (images.includes(image)) continue;
      URL.revokeObjectURL(row.querySelector("img").src);
      row.remove();
      this.#rows.delete(image);
    }
    for (const image of images) {
      list.append(this.#rows.get(image) ?? this.#newRow(image)); // keeps the order
      this.#describe(image);
    }
    const at = images.indexOf(this.#workspace.current);
    strip.hidden = images.length < 2;
    previous.disabled = at <= 0;
    next.disabled = at < 0 || at === images.length - 1;
    if (!strip.classList.contains("is-opening")) position.textContent = `${at + 1} of ${images.length}`;
    this.#rows.get(this.#workspace.current)?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  /** @param {WorkImage} image */
  #newRow(image) {
    const row = /** @type {HTMLElement} */ (this.#parts.template.content.firstElementChild.cloneNode(true));
    row.querySelector("img").src = URL.createObjectURL(image.thumbnail);
    row.querySelector(".thumbnail").addEventListener("click", () => this.#workspace.show(image));
    row.querySelector(".thumbnail-close").addEventListener("click", () => this.onClose(image));
    this.#rows.set(image, row);
    return row;
  }

  /** @param {WorkImage} image */
  #describe(image) {
    const row = this.#rows.get(image);
    if (!row) return;
    const count = objectCount(image);
    const { name } = image.file;
    const button = row.querySelector(".thumbnail");
    const objects = count === 0 ? "" : count === 1 ? ", 1 object" : `, ${count} objects`;
    button.setAttribute("aria-current", String(image === this.#workspace.current));
    button.setAttribute("aria-label", `${name}${objects}`);
    button.setAttribute("title", name);
    row.querySelector(".thumbnail-close").setAttribute("aria-label", `Close ${name}`);
    row.querySelector(".badge").textContent = count > 0 ? String(count) : "";
  }
}

/** The number of an image's objects that have a mask. @param {WorkImage} image */
export function objectCount({ session }) {
  return session.objects.filter((object) => (session.mask(object)?.area ?? 0) > 0).length;
}
