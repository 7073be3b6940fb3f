// The box one writes in: it grows with the text, sends with Enter, and its button stops what is under way.

import { setIcon } from "./elements.js";

export class Composer {
  #isBusy = false;

  /** parts: {form, area, button, meter}; hooks: onSend(text) -> taken or not, onStop(), onEditLast() */
  constructor(parts, hooks) {
    this.parts = parts;
    this.hooks = hooks;
    parts.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#isBusy) hooks.onStop();
      else this.send();
    });
    parts.area.addEventListener("keydown", (event) => this.#onKey(event));
    parts.area.addEventListener("input", () => this.#fit());
  }

  get text() {
    return this.parts.area.value;
  }

  set text(value) {
    this.parts.area.value = value;
    this.#fit();
  }

  focus() {
    this.parts.area.focus();
  }

  send() {
    if (this.hooks.onSend(this.text)) this.text = "";
  }

  /** The button sends, or stops while an answer is under way. */
  setBusy(isBusy) {
    if (isBusy === this.#isBusy) return;
    this.#isBusy = isBusy;
    const { button } = this.parts;
    setIcon(button, isBusy ? "stop" : "send");
    button.setAttribute("aria-label", isBusy ? "Stop" : "Send");
    button.title = isBusy ? "Stop (Esc)" : "Send (Enter)";
    button.classList.toggle("is-stop", isBusy);
  }

  /** How much of the model's context the shown conversation takes; null: not known yet. */
  showContext(used) {
    const { meter } = this.parts;
    meter.hidden = !used;
    if (!used) return;
    const share = Math.min(1, used.tokens / used.of);
    meter.querySelector(".meter-fill").style.width = `${Math.round(100 * share)}%`;
    meter.querySelector(".meter-text").textContent = `${used.tokens} of ${used.of} tokens of context`;
    meter.classList.toggle("is-full", share > 0.85);
  }

  #onKey(event) {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      if (!this.#isBusy) this.send();
    } else if (event.key === "ArrowUp" && this.text === "" && this.hooks.onEditLast()) event.preventDefault();
  }

  #fit() {
    const { area } = this.parts;
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight}px`;
  }
}
