// The page's way to the server: the list of models, and what is done while it cannot be had.
//
// Loading is polled, a token is asked for, and a server that cannot be reached is tried again when the browser is
// online again, when the button is pressed, and every few seconds: the page heals by itself.

import { keepToken, readToken } from "./store.js";

const POLL_LOADING_MS = 1000;
const POLL_OFFLINE_MS = 5000;

export class Connection {
  #timer = null;

  /** parts: {api, notice, dialog (asks for the token)}; hooks: onModels(entries), onToken() */
  constructor(parts, hooks) {
    this.parts = parts;
    this.hooks = hooks;
    addEventListener("online", () => this.connect());
    const { dialog } = parts;
    dialog.querySelector("form").addEventListener("submit", () => {
      keepToken(dialog.querySelector("input").value.trim());
      dialog.querySelector("input").value = "";
      this.connect({ isAfterToken: true });
    });
  }

  /** Fetches the list of models, or says why not and goes on trying. */
  async connect({ isAfterToken = false } = {}) {
    clearTimeout(this.#timer);
    const { api, notice } = this.parts;
    try {
      const entries = await api.models();
      if (!entries.length) return notice.show("The server has no model to talk to.", this.#retry());
      notice.clear();
      this.hooks.onModels(entries);
      if (isAfterToken) this.hooks.onToken();
    } catch (error) {
      if (error.kind === "token") return this.askToken();
      if (error.kind === undefined) throw error;
      const isLoading = error.kind === "loading";
      if (isLoading) notice.show("The model is being loaded. This page goes on by itself.");
      else notice.show(error.message, this.#retry());
      this.#timer = setTimeout(() => this.connect(), isLoading ? POLL_LOADING_MS : POLL_OFFLINE_MS);
    }
  }

  /** Asks for the token; says so where the one that was given is wrong. */
  askToken() {
    const { dialog, notice } = this.parts;
    notice.show("The server asks for its token.", { label: "Enter the token", act: () => this.askToken() });
    dialog.querySelector(".problem").textContent = readToken() ? "That token was not accepted." : "";
    if (!dialog.open) dialog.showModal();
  }

  #retry() {
    return { label: "Try again", act: () => this.connect() };
  }
}
