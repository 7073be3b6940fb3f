// What the page itself has to say: a bar while something is wrong with the server, and short messages that go away.

import { element, iconButton } from "./elements.js";

const TOAST_MS = 7000;

export class Notice {
  /** bar: role="alert", above the conversation; shelf: where short messages stand. */
  constructor(bar, shelf) {
    this.bar = bar;
    this.shelf = shelf;
  }

  /** Says what is wrong until `clear`, with a button that may help. */
  show(message, action = null) {
    const button = action && quietButton(action.label, action.act);
    this.bar.replaceChildren(element("p", {}, message), button ?? "");
    this.bar.hidden = false;
  }

  clear() {
    this.bar.hidden = true;
    this.bar.replaceChildren();
  }

  /** Says something for some seconds; longer while the pointer or the keyboard is on it. */
  toast(message, action = null) {
    const leave = () => note.remove();
    const act = () => (leave(), action.act());
    const button = action && quietButton(action.label, act);
    const close = iconButton("close", "Dismiss", leave);
    const note = element("div", { className: "toast" }, element("p", {}, message), button, close);
    const leaveUnlessUsed = () => {
      if (note.matches(":hover, :focus-within")) setTimeout(leaveUnlessUsed, TOAST_MS);
      else leave();
    };
    this.shelf.replaceChildren(note);
    setTimeout(leaveUnlessUsed, TOAST_MS);
  }
}

function quietButton(label, onclick) {
  return element("button", { type: "button", className: "quiet-button", onclick }, label);
}
