// One answer as it is drawn: who says it, text and tool cards as they grow, what went wrong, and how fast it was.

import { usedContext } from "./answer.js";
import { dotted, element, iconButton } from "./elements.js";
import { MarkdownView } from "./markdown.js";
import { figuresOf, nameOf } from "./models.js";
import { groupParts, ToolCard } from "./tool_card.js";

export class AnswerView {
  #views = []; // one per group of parts, of the same kind

  /** entry: the model as the server lists it, or undefined; showsFigures: where models are compared. */
  constructor(answer, { entry, showsFigures, onRetry }) {
    this.answer = answer;
    this.onRetry = onRetry;
    const shown = nameOf(entry ?? { id: answer.model });
    this.name = element("h3", { className: "model-name", title: answer.ref || answer.model }, shown);
    this.figures = element("p", { className: "figures" }, ...(showsFigures ? dotted(figuresOf(entry)) : []));
    this.figures.hidden = !showsFigures;
    this.note = element("p", { className: "answer-note" });
    this.body = element("div", { className: "answer-body" });
    this.state = element("div", { className: "answer-state" });
    this.stats = element("p", { className: "stats" });
    const { name, figures: measured, note, body, state, stats } = this;
    this.node = element("div", { className: "answer" }, name, measured, note, body, state, stats);
    this.update();
  }

  get isLive() {
    return this.answer.status === "streaming" || this.answer.status === "waiting";
  }

  update() {
    const { forgotten, stats } = this.answer;
    this.#updateParts();
    this.node.setAttribute("aria-busy", String(this.isLive));
    this.node.classList.toggle("is-live", this.answer.status === "streaming");
    const [one, some] = ["The first exchange no longer fits", `The first ${forgotten} exchanges no longer fit`];
    const [what, left] = forgotten === 1 ? [one, "was left out"] : [some, "were left out"];
    this.note.textContent = forgotten ? `${what} the model's context and ${left}.` : "";
    this.note.hidden = !forgotten;
    this.stats.replaceChildren(...(stats ? dotted(statsInWords(stats, this.answer.sampling.seed)) : []));
    this.stats.hidden = !stats;
    this.#updateState();
  }

  #updateParts() {
    const groups = groupParts(this.answer.parts);
    groups.forEach((group, at) => {
      if (!this.#views[at]) {
        this.#views[at] = group.kind === "text" ? new MarkdownView() : new ToolCard();
        this.body.append(this.#views[at].node);
      }
      if (group.kind === "text") this.#views[at].update(group.text);
      else this.#views[at].update(group, this.isLive && at === groups.length - 1);
    });
    this.body.hidden = !groups.length && !this.isLive;
  }

  #updateState() {
    const said = this.#stateInWords();
    const isError = this.answer.status === "error";
    const signature = `${isError}${said}`;
    if (this.state.dataset.shown === signature) return; // a button that has the keyboard must not be made anew
    this.state.dataset.shown = signature;
    this.state.hidden = !said;
    this.state.classList.toggle("is-error", isError);
    const retry = element("button", { type: "button", className: "quiet-button", onclick: this.onRetry }, "Try again");
    this.state.replaceChildren(element("p", {}, said), ...(isError ? [retry] : []));
  }

  #stateInWords() {
    const { status, wait, finish, error, parts } = this.answer;
    if (status === "waiting" && wait?.untilMs) {
      return `${wait.message} Trying again in ${Math.max(1, Math.ceil((wait.untilMs - Date.now()) / 1000))} s.`;
    }
    if (status === "waiting") return `${wait?.message ?? "Waiting."} The answer starts as soon as it is ready.`;
    if (status === "error") return error?.message ?? "Something went wrong.";
    if (status === "stopped") return "Stopped.";
    if (finish === "length") return this.#cutInWords();
    return status === "done" && !parts.length ? "The model said nothing." : "";
  }

  #cutInWords() {
    const used = usedContext(this.answer.stats);
    const isFull = used && used.tokens >= used.of - 1;
    if (isFull) return "The model's context is full: the answer ends here.";
    return "The answer reached its longest length (see the settings).";
  }
}

/** ["42 tokens", "118 tokens/s", "first token after 0.08 s", "96 of 256 tokens of context", "seed 7"] */
export function statsInWords(stats, seed) {
  const said = [];
  if (Number.isFinite(stats.completionTokens)) said.push(`${stats.completionTokens} tokens`);
  if (stats.tokensPerS) said.push(`${stats.isEstimate ? "about " : ""}${shortNumber(stats.tokensPerS)} tokens/s`);
  if (Number.isFinite(stats.ttftS)) said.push(`first token after ${shortTime(stats.ttftS)}`);
  const used = usedContext(stats);
  if (used) said.push(`${used.tokens} of ${used.of} tokens of context`);
  const shownSeed = stats.seed ?? seed;
  if (Number.isFinite(shownSeed)) said.push(`seed ${shownSeed}`);
  return said;
}

function shortTime(seconds) {
  return seconds < 0.1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(2)} s`;
}

function shortNumber(value) {
  return value >= 10 ? Math.round(value).toLocaleString("en") : value.toFixed(1);
}

/** Actions of a message: versions, and buttons. */
export function messageActions({ versions, place, onChoose, buttons }) {
  const at = versions.indexOf(place);
  const bar = element("div", { className: "actions", role: "group", "aria-label": "Actions" });
  if (versions.length > 1) {
    const go = (step) => () => onChoose(versions[at + step], step < 0 ? "previous" : "next");
    const label = element("span", { className: "visually-hidden" }, "Version ");
    bar.append(
      iconButton("left", "Previous version", go(-1), { "data-action": "previous", disabled: at === 0 }),
      element("span", { className: "version" }, label, `${at + 1}/${versions.length}`),
      iconButton("right", "Next version", go(1), { "data-action": "next", disabled: at === versions.length - 1 }),
    );
  }
  bar.append(...buttons);
  return bar;
}
