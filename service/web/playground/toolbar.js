/**
 * Fits the toolbar into its place. Names of tools are left out first; then tools move into the menu "More tools", those
 * with the largest `data-fold` first. Tools without it stay.
 */

const GAP = 8; // CSS pixels between the menu and the window's edges or its button

export class Toolbar {
  #bar;
  #more;
  #menu;
  /** @type {{button: HTMLButtonElement, group: HTMLElement}[]} all tools, in their order in the bar */
  #tools;

  /** @param {{bar: HTMLElement, more: HTMLElement, menu: HTMLElement}} parts `more` opens `menu` */
  constructor({ bar, more, menu }) {
    this.#bar = bar;
    this.#more = more;
    this.#menu = menu;
    this.#tools = [...bar.querySelectorAll(".group > button")].map((button) => ({ button, group: button.parentElement }));
    menu.addEventListener("toggle", () => this.#placeMenu());
    menu.addEventListener("click", ({ target }) => {
      if (target.closest("[aria-pressed]")) menu.hidePopover(); // a tool is chosen; zoom and undo are often repeated
    });
    new ResizeObserver(() => this.fit()).observe(bar.parentElement);
  }

  /** Show as many tools as there is room for. */
  fit() {
    const focused = document.activeElement;
    if (this.#menu.matches(":popover-open")) this.#menu.hidePopover();
    for (const { button, group } of this.#tools) group.append(button);
    this.#more.hidden = true;
    this.#bar.classList.remove("is-compact");
    if (this.#isTooLong) this.#bar.classList.add("is-compact");
    const foldable = this.#tools.filter(({ button }) => button.dataset.fold && getComputedStyle(button).display !== "none");
    foldable.sort((a, b) => Number(a.button.dataset.fold) - Number(b.button.dataset.fold));
    const folded = new Set();
    while (this.#isTooLong && foldable.length > 0) {
      const { button } = foldable.pop();
      folded.add(button);
      this.#menu.append(button);
      this.#more.hidden = false;
    }
    for (const { button } of this.#tools) if (folded.has(button)) this.#menu.append(button); // in the bar's order
    if (this.#bar.contains(focused)) focused.focus({ preventScroll: true }); // moving an element takes its focus away
  }

  get #isTooLong() {
    return this.#bar.scrollWidth > this.#bar.clientWidth || this.#bar.scrollHeight > this.#bar.clientHeight;
  }

  /** Beside its button, inside the window. */
  #placeMenu() {
    const button = this.#more.getBoundingClientRect();
    const { width, height } = this.#menu.getBoundingClientRect();
    const left = Math.min(Math.max(GAP, button.right - width), innerWidth - width - GAP);
    const top = button.top - height - GAP;
    this.#menu.style.left = `${left}px`;
    this.#menu.style.top = `${top >= GAP ? top : Math.max(GAP, Math.min(button.top, innerHeight - height - GAP))}px`;
  }
}
