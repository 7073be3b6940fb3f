// The list of conversations at the side: open, delete (with a way back), export to a file, import from one.

import { element, iconButton } from "./elements.js";
import { conversationsFromFile, fileFrom, RecordError } from "./record.js";

const MAX_FILE_BYTES = 20_000_000;

export class HistoryList {
  #conversations = new Map();

  /** parts: {list, store, chat, toast(message, {label, act})} */
  constructor(parts) {
    this.parts = parts;
    this.reload();
  }

  /** Reads the storage again, as another tab may have written to it; what this tab works on stays. */
  reload() {
    const { chat, store } = this.parts;
    const own = [...this.#conversations.values()].filter((one) => one === chat.conversation || chat.isRunning(one));
    this.#conversations = new Map([...store.all(), ...own].map((one) => [one.id, one]));
    this.draw();
  }

  /** The list as it is now; a conversation appears with its first message. */
  draw() {
    const { list, chat } = this.parts;
    if (chat.conversation.nodes.length) this.#conversations.set(chat.conversation.id, chat.conversation);
    const sorted = [...this.#conversations.values()].sort((a, b) => b.updatedAt - a.updatedAt);
    list.replaceChildren(...sorted.map((conversation) => this.#entry(conversation)));
  }

  #entry(conversation) {
    const { chat } = this.parts;
    const title = conversation.title || "Untitled";
    const isShown = conversation === chat.conversation;
    const isRunning = chat.isRunning(conversation);
    const open = element(
      "button",
      {
        type: "button",
        className: "conversation",
        "aria-current": isShown ? "true" : null,
        onclick: () => this.parts.onOpen(conversation),
      },
      element("span", {}, title),
      isRunning && element("span", { className: "running", role: "img", "aria-label": "answering" }),
    );
    const remove = () => this.#remove(conversation);
    return element("li", {}, open, iconButton("trash", `Delete “${title}”`, remove, { disabled: isRunning }));
  }

  #remove(conversation) {
    const { chat, store, toast } = this.parts;
    this.#conversations.delete(conversation.id);
    store.remove(conversation.id);
    if (conversation === chat.conversation) this.parts.onOpen();
    else this.draw();
    toast("Conversation deleted.", {
      label: "Undo",
      act: () => {
        store.save(conversation);
        this.#conversations.set(conversation.id, conversation);
        this.parts.onOpen(conversation);
      },
    });
  }

  /** Offers all conversations as a file. */
  exportFile() {
    const { toast } = this.parts;
    if (!this.#conversations.size) return toast("There is no conversation to export yet.");
    const content = fileFrom([...this.#conversations.values()]);
    const address = URL.createObjectURL(new Blob([content], { type: "application/json" }));
    const day = new Date().toISOString().slice(0, 10);
    element("a", { href: address, download: `nanochat-conversations-${day}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }

  /** Adds the conversations of a file; one that is here already and differs becomes a copy. */
  async importFile(file) {
    const { toast, store } = this.parts;
    try {
      if (file.size > MAX_FILE_BYTES) throw new RecordError(`the file is larger than ${MAX_FILE_BYTES / 1e6} MB`);
      const read = conversationsFromFile(await file.text());
      const added = read.filter((conversation) => this.#add(conversation));
      for (const conversation of added) store.save(conversation);
      this.draw();
      const known = read.length - added.length;
      toast(`${added.length} imported${known ? `, ${known} were here already` : ""}.`);
    } catch (error) {
      if (!(error instanceof RecordError)) throw error;
      toast(`Nothing was imported: ${error.message}.`);
    }
  }

  #add(conversation) {
    const here = this.#conversations.get(conversation.id);
    if (here && JSON.stringify(here.nodes) === JSON.stringify(conversation.nodes)) return false;
    if (here) conversation.id = `${conversation.id.slice(0, 60)}-${Date.now().toString(36)}`;
    this.#conversations.set(conversation.id, conversation);
    return true;
  }
}
