// A tool call as a folded card: the expression and its result on one line, all of it when opened.

import { element, icon } from "./elements.js";

/** Parts in the order they are shown: runs of text, and calls with their result or error. */
export function groupParts(parts) {
  const groups = [];
  for (const { type, text } of parts) {
    const last = groups.at(-1);
    const isOpenCall = last?.kind === "tool" && last.result === null && !last.isError;
    if (type === "text") groups.push({ kind: "text", text });
    else if (type === "python") groups.push({ kind: "tool", expression: text, result: null, isError: false });
    else if (type === "python_output" && isOpenCall) last.result = text;
    else if (type === "python_output") groups.push({ kind: "tool", expression: "", result: text, isError: false });
    else if (isOpenCall && last.expression === text) last.isError = true;
    else groups.push({ kind: "tool", expression: text, result: null, isError: true });
  }
  return groups;
}

export class ToolCard {
  constructor() {
    this.outcome = element("span", { className: "tool-outcome" });
    this.call = element("code", { className: "tool-call" });
    this.details = element("dl");
    const label = element("span", { className: "visually-hidden" }, "Calculator: ");
    const summary = element("summary", {}, icon("calculator"), label, this.call, this.outcome);
    this.node = element("details", { className: "tool" }, summary, this.details);
  }

  update({ expression, result, isError }, isRunning) {
    const state = JSON.stringify([expression, result, isError, isRunning]);
    if (state === this.state) return; // what is drawn may hold the marks of a comparison
    this.state = state;
    this.call.textContent = expression || "?";
    this.node.classList.toggle("is-error", isError);
    if (result !== null) this.outcome.textContent = `= ${result}`;
    else this.outcome.textContent = isRunning && !isError ? "…" : "no result";
    const rows = [["Expression", expression || "(none)"]];
    if (result !== null) rows.push(["Result", result]);
    if (isError) rows.push(["Error", "The calculator cannot work this out; the model went on without a result."]);
    const drawn = rows.map(([name, value]) => {
      const shown = name === "Error" ? value : element("code", {}, value);
      return element("div", {}, element("dt", {}, name), element("dd", {}, shown));
    });
    this.details.replaceChildren(...drawn);
  }
}
