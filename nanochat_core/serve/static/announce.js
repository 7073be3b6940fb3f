// What a screen reader is told while answers stream: whole sentences, politely, one after the other.
//
// A live region around the answer itself would be read again at every token. So sentences are gathered here and added
// to a region of their own when they are whole; the rest follows at the end of the answer.

const MAX_KEPT = 12; // entries of the region; older ones were read long ago
const SENTENCE = /^[\s\S]{0,600}?(?:[.!?…](?=\s)|\n+)/;
const MAX_WAITING = 600; // characters without an end of a sentence; a small model may never write one

export class Announcer {
  #region;
  #waiting = new Map(); // speaker -> text that is no sentence yet

  constructor(region) {
    this.#region = region;
  }

  /** Says something now. */
  say(text) {
    if (!text.trim()) return;
    const line = document.createElement("p");
    line.textContent = text.trim();
    this.#region.append(line);
    while (this.#region.childElementCount > MAX_KEPT) this.#region.firstElementChild.remove();
  }

  /** More of what a speaker says. */
  hear(speaker, piece) {
    let text = (this.#waiting.get(speaker) ?? "") + piece;
    for (let match = SENTENCE.exec(text); match; match = SENTENCE.exec(text)) {
      this.say(match[0]);
      text = text.slice(match[0].length);
    }
    if (text.length > MAX_WAITING) {
      this.say(text);
      text = "";
    }
    this.#waiting.set(speaker, text);
  }

  /** The speaker is done: the rest is said, and then `closing`. */
  end(speaker, closing = "") {
    this.say(this.#waiting.get(speaker) ?? "");
    this.#waiting.delete(speaker);
    this.say(closing);
  }
}

/** Tells an announcer what is new in a growing answer: its sentences, and what its tool calls gave. */
export class Narrator {
  #announcer;
  #place = 0; // the part that is being told, and how much of it was
  #numChars = 0;

  constructor(announcer) {
    this.#announcer = announcer;
  }

  follow(answer) {
    for (; this.#place < answer.parts.length; this.#place += 1) {
      const { type, text } = answer.parts[this.#place];
      if (type === "text") this.#announcer.hear(this, text.slice(this.#numChars));
      else this.#announcer.end(this, toolInWords(type, text));
      this.#numChars = text.length;
      if (type === "text" && this.#place === answer.parts.length - 1) return; // it may still grow
      this.#numChars = 0;
    }
  }

  end(closing) {
    this.#announcer.end(this, closing);
  }
}

function toolInWords(type, text) {
  if (type === "python") return `The calculator is asked for ${text}.`;
  return type === "python_output" ? `The calculator says ${text}.` : "The calculator cannot work this out.";
}
