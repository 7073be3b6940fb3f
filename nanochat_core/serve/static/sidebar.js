// The conversations at the side. On a narrow screen they slide over the page, which then cannot be reached by keyboard.

export class Sidebar {
  /** panel: the sidebar; scrim: what covers the rest; stage: the rest; opener: its button. */
  constructor(panel, scrim, stage, opener) {
    Object.assign(this, { panel, scrim, stage, opener });
    opener.addEventListener("click", () => this.open());
    scrim.addEventListener("click", () => this.close());
    panel.querySelector(".close-sidebar").addEventListener("click", () => this.close());
    matchMedia("(min-width: 52rem)").addEventListener("change", () => this.close());
  }

  open() {
    this.#set(true);
    this.panel.querySelector("button").focus();
  }

  /** False where it was not open. */
  close() {
    const wasOpen = this.panel.classList.contains("is-open");
    if (wasOpen) {
      this.#set(false);
      this.opener.focus();
    }
    return wasOpen;
  }

  #set(isOpen) {
    this.panel.classList.toggle("is-open", isOpen);
    this.scrim.hidden = !isOpen;
    this.stage.inert = isOpen;
    this.opener.setAttribute("aria-expanded", String(isOpen));
  }
}
