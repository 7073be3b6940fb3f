// The shown branch of a conversation, drawn: one view per message, kept while the message stays on the branch.
//
// Only what changed is drawn anew, so that selected text, opened cards and the keyboard's place survive an answer that
// grows. The view follows the answer to the bottom as long as the reader is there, and not when they have scrolled up.

import { AnswerView, messageActions } from "./answer_view.js";
import { markDifferences } from "./compare.js";
import { copyButton, copyText, element, iconButton, setIcon } from "./elements.js";
import { lastShown, shownPath, textFrom, versions } from "./tree.js";

const NEAR_BOTTOM_PX = 80;

export class Thread {
  #views = new Map(); // place -> {node, update}
  #conversation = null;
  #pending = new Set();
  #hooks;

  /** list: the <ol>; scroller: its scroller; hooks: findModel isBusy onEdit onRegenerate onRetry onChoose linkFor */
  constructor(list, scroller, hooks) {
    this.list = list;
    this.scroller = scroller;
    this.#hooks = hooks;
  }

  get isAtBottom() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR_BOTTOM_PX;
  }

  toBottom({ isSmooth = false } = {}) {
    const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.scroller.scrollTo({ top: this.scroller.scrollHeight, behavior: isSmooth && !isCalm ? "smooth" : "instant" });
  }

  /** Shows a conversation, or what changed about its branches. */
  show(conversation) {
    const isOther = conversation !== this.#conversation;
    if (isOther) this.#views.clear();
    this.#conversation = conversation;
    const path = shownPath(conversation);
    const views = path.map((place) => this.#viewAt(place));
    const nodes = views.map((view) => view.node);
    for (const child of [...this.list.children]) if (!nodes.includes(child)) child.remove();
    nodes.forEach((node, at) => {
      if (this.list.children[at] !== node) this.list.insertBefore(node, this.list.children[at] ?? null);
    });
    for (const view of views) view.update();
    if (isOther) this.toBottom();
  }

  /** Draws a message anew before the next frame, however often it is called until then. */
  updateSoon(conversation, place) {
    if (conversation !== this.#conversation) return;
    if (!this.#pending.size) requestAnimationFrame(() => this.#updatePending());
    this.#pending.add(place);
  }

  #updatePending() {
    const follows = this.isAtBottom;
    for (const place of this.#pending) this.#views.get(place)?.update();
    this.#pending.clear();
    if (follows) this.toBottom();
  }

  /** Opens the last shown message of the user for editing; false where there is none. */
  editLast() {
    const place = this.#conversation && lastShown(this.#conversation, "user");
    if (place === null) return false;
    this.#views.get(place).edit();
    return true;
  }

  /** Moves the keyboard to an action of a message, or to the message's first action. */
  focusAction(place, action) {
    const node = this.#views.get(place)?.node;
    const wanted = node?.querySelector(`[data-action="${action}"]:not(:disabled)`);
    (wanted ?? node?.querySelector(".actions button:not(:disabled)"))?.focus();
  }

  #viewAt(place) {
    if (!this.#views.has(place)) {
      const isUser = this.#conversation.nodes[place].role === "user";
      this.#views.set(place, isUser ? this.#userView(place) : this.#assistantView(place));
    }
    return this.#views.get(place);
  }

  #actions(place, buttons) {
    const onChoose = (other, action) => {
      this.#hooks.onChoose(other);
      this.focusAction(other, action);
    };
    return messageActions({ versions: versions(this.#conversation, place), place, onChoose, buttons });
  }

  #userView(place) {
    const message = this.#conversation.nodes[place];
    const heading = element("h2", { className: "visually-hidden" }, "You");
    const bubble = element("div", { className: "bubble" }, message.text);
    const body = element("div", { className: "user-body" }, bubble);
    const node = element("li", { className: "message user" }, heading, body);
    const view = { node, isEditing: false };
    view.edit = () => {
      if (view.isEditing || this.#hooks.isBusy()) return;
      view.isEditing = true;
      const close = () => {
        view.isEditing = false;
        body.replaceChildren(bubble, view.bar);
      };
      body.replaceChildren(this.#editor(place, message.text, close));
      body.querySelector("textarea").focus();
    };
    view.update = () => {
      const disabled = this.#hooks.isBusy();
      const edit = iconButton("edit", "Edit message", view.edit, { "data-action": "edit", disabled });
      view.bar = keepingFocus(view.bar, this.#actions(place, [edit, copyButton("Copy message", () => message.text)]));
      if (!view.isEditing) body.replaceChildren(bubble, view.bar);
    };
    return view;
  }

  #editor(place, text, close) {
    const area = element("textarea", { "aria-label": "Edit message", rows: "2" });
    area.value = text;
    const leave = () => {
      close();
      this.focusAction(place, "edit");
    };
    const save = () => {
      if (!area.value.trim()) return;
      close();
      this.#hooks.onEdit(place, area.value.trim());
    };
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        leave();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        save();
      }
    });
    const cancel = element("button", { type: "button", className: "quiet-button", onclick: leave }, "Cancel");
    const send = element("button", { type: "button", className: "accent-button", onclick: save }, "Send");
    return element("div", { className: "editor" }, area, element("div", { className: "editor-buttons" }, cancel, send));
  }

  #assistantView(place) {
    const { answers } = this.#conversation.nodes[place];
    const isCompared = answers.length > 1;
    const heading = element("h2", { className: "visually-hidden" }, isCompared ? "Answers" : "Answer");
    const views = answers.map((answer) => {
      const entry = this.#hooks.findModel(answer.model);
      return new AnswerView(answer, { entry, showsFigures: isCompared, onRetry: () => this.#hooks.onRetry(place) });
    });
    const className = isCompared ? "answers compared" : "answers";
    const columns = element("div", { className }, ...views.map((view) => view.node));
    const difference = element("p", { className: "difference" });
    const holder = element("div");
    const node = element("li", { className: "message assistant" }, heading, columns, difference, holder);
    let isMarked = false;
    const update = () => {
      for (const view of views) view.update();
      const isLive = views.some((view) => view.isLive);
      if (isCompared && !isLive && !isMarked) {
        difference.textContent = markDifferences(views[0].body, views[1].body);
        isMarked = true;
      }
      if (isLive) isMarked = false;
      difference.hidden = !difference.textContent || isLive;
      holder.hidden = isLive;
      if (isLive) return;
      const bar = this.#actions(place, this.#answerButtons(place, answers));
      holder.replaceChildren(keepingFocus(holder.firstElementChild, bar));
    };
    return { node, update };
  }

  #answerButtons(place, answers) {
    const { isBusy, onRegenerate } = this.#hooks;
    const again = { "data-action": "again", disabled: isBusy() };
    const regenerate = iconButton("again", "Answer again", () => onRegenerate(place), again);
    const copy = copyButton("Copy answer", () => answers.map((answer) => textFrom(answer.parts)).join("\n\n---\n\n"));
    const link = iconButton("link", "Copy a link that reproduces this", async () => {
      const isCopied = await copyText(this.#hooks.linkFor(place));
      setIcon(link, isCopied ? "done" : "close");
      setTimeout(() => setIcon(link, "link"), 1500);
    });
    link.dataset.action = "link";
    return [regenerate, copy, link];
  }
}

/** A new bar for an old one: the keyboard stays on the button with the same label. */
function keepingFocus(old, bar) {
  const label = old?.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  const isSame = (button) => button.getAttribute("aria-label") === label;
  if (label) queueMicrotask(() => [...bar.querySelectorAll("button")].find(isSame)?.focus());
  return bar;
}
