// Where conversations and settings are kept: this browser's localStorage, one key per conversation.
//
// One key each, so that two tabs do not overwrite each other's conversations; in one that both show, a tab goes on from
// what the other has kept (`newer`). While an answer grows its conversation is written once a second, and at once when
// the answer ends or the page goes. Where the browser allows no storage (or it is full) the page works on, and says
// that it cannot keep what is written.

import { conversationFrom, RecordError } from "./record.js";

const PREFIX = "nanochat.conversation.";
const SETTINGS = "nanochat.settings";
const TOKEN = "nanochat.token";
const SAVE_EVERY_MS = 1000;

export class ConversationStore {
  #waiting = new Map(); // id -> {conversation, timer}
  #onProblem;

  /** onProblem(message) is called when something could not be kept. */
  constructor(onProblem) {
    this.#onProblem = onProblem;
    addEventListener("pagehide", () => this.flush());
  }

  /** All conversations, the newest first; what is stored but damaged is left alone and left out. */
  all() {
    const found = keys().flatMap((key) => {
      try {
        return [conversationFrom(JSON.parse(localStorage.getItem(key)))];
      } catch (error) {
        if (error instanceof RecordError || error instanceof SyntaxError) return [];
        throw error;
      }
    });
    return found.sort((a, b) => b.updatedAt - a.updatedAt);
  }

  /** The conversation with what another tab has added to it since, or null. */
  newer(conversation) {
    try {
      const kept = conversationFrom(JSON.parse(localStorage.getItem(PREFIX + conversation.id)));
      return kept.nodes.length > conversation.nodes.length ? kept : null;
    } catch {
      return null; // nothing is kept, or nothing that can be read
    }
  }

  save(conversation) {
    this.#forget(conversation.id);
    try {
      localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
    } catch {
      this.#onProblem("This browser keeps nothing: its storage is full or switched off. Export what you need.");
    }
  }

  /** Saves within a second, however often it is called. */
  saveSoon(conversation) {
    if (this.#waiting.has(conversation.id)) return;
    const timer = setTimeout(() => this.save(conversation), SAVE_EVERY_MS);
    this.#waiting.set(conversation.id, { conversation, timer });
  }

  flush() {
    for (const { conversation } of [...this.#waiting.values()]) this.save(conversation);
  }

  remove(id) {
    this.#forget(id);
    try {
      localStorage.removeItem(PREFIX + id);
    } catch {
      // nothing was kept, so nothing is to be removed
    }
  }

  #forget(id) {
    clearTimeout(this.#waiting.get(id)?.timer);
    this.#waiting.delete(id);
  }
}

function keys() {
  try {
    return Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
  } catch {
    return []; // a browser that allows no storage throws at the name already
  }
}

/** Settings as an object of plain values; {} where none are kept or they are damaged. */
export function loadSettings() {
  try {
    const value = JSON.parse(localStorage.getItem(SETTINGS));
    return value !== null && typeof value === "object" && !Array.isArray(value) ? value : {};
  } catch {
    return {};
  }
}

/** Changes some of the settings and keeps them. */
export function keepSettings(changed) {
  try {
    localStorage.setItem(SETTINGS, JSON.stringify({ ...loadSettings(), ...changed }));
  } catch {
    // a setting that is lost at the next visit is not worth a message
  }
}

let token = null;

/** The server's token: for this tab and until it is closed, never in localStorage. */
export function readToken() {
  try {
    return token ?? sessionStorage.getItem(TOKEN);
  } catch {
    return token;
  }
}

export function keepToken(given) {
  token = given;
  try {
    sessionStorage.setItem(TOKEN, given);
  } catch {
    // kept in memory then, until the page is loaded again
  }
}
