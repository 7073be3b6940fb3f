// Rows as the model sees them, and conversations turn by turn: each token a patch of its own, what is not learnt grey.

import { element } from "./elements.js";
import { askForm, count, pages, placeOf, SPLITS } from "./data_parts.js";

const GROUNDS = 4;
const KINDS = [["text", "text"], ["conversations", "conversations"]];

/** One row: documents with their borders, tokens, and what is learnt. */
export async function rowPage(look) {
  const { of = "text", split = "train", row = 0 } = look.query;
  const form = askForm(
    "Row",
    [
      { name: "of", label: "of", kind: "choice", value: of, choices: KINDS },
      { name: "split", label: "for", kind: "choice", value: split, choices: SPLITS },
      { name: "row", label: "number", kind: "number", value: row },
    ],
    look.go,
  );
  const found = await look.ask("row", { of, split, row });
  const end = found.stretches.reduce((last, part) => Math.max(last, part.start + part.length), 0);
  const parts = found.stretches.map((part) =>
    element(
      "section",
      { className: "stretch" },
      element("h3", {}, stretchTitle(look, of, split, part)),
      tokenLine(found, part.start, part.start + part.length),
    ),
  );
  const padding = found.ids.length - end;
  const learnt = found.learnt.reduce((sum, each) => sum + each, 0);
  return [
    element("h2", {}, `Row ${count(found.row)} of ${count(found.num_rows)}`),
    form,
    element("p", { className: "facts" }, `${count(found.ids.length)} tokens, ${count(learnt)} of them learnt` +
      (found.source ? ` · source: ${found.source}` : "")),
    legend(),
    ...parts,
    padding > 0 && element("p", { className: "facts" }, `${count(padding)} tokens of padding, not learnt`),
    neighbours(look, found),
  ].filter(Boolean);
}

/** Conversations, each turn with how much of it is learnt. */
export async function conversationsPage(look) {
  const { split = "train", search = "", start = 0 } = look.query;
  const form = askForm(
    "Conversations",
    [
      { name: "split", label: "of", kind: "choice", value: split, choices: SPLITS },
      { name: "search", label: "with the text", kind: "text", value: search },
      { name: "start", label: "from row", kind: "number", value: start },
    ],
    look.go,
  );
  const found = await look.ask("conversations", { split, search, start });
  const listed = found.conversations.map((one) =>
    element(
      "li",
      { className: "card talk" },
      element("h3", {}, placeOf(one.stretch) + wholeness(one.stretch), " ",
        element("a", { className: "facts", href: look.link("rows", { of: "conversations", split, row: one.row }) },
          `row ${count(one.row)}`)),
      ...one.turns.filter(({ speaker }) => speaker).map(turnOf),
    ),
  );
  return [
    element("h2", {}, "Conversations"),
    form,
    legend(),
    listed.length
      ? element("ol", { className: "cards" }, ...listed)
      : element("p", { className: "nothing" }, "There is no such conversation."),
    pages(look, "conversations", found.next),
  ];
}

function turnOf(turn) {
  const learnt = turn.num_learnt ? `${count(turn.num_learnt)} of ${count(turn.length)} tokens learnt` : "not learnt";
  return element(
    "div",
    { className: turn.num_learnt ? "turn is-learnt" : "turn" },
    element("p", { className: "speaker" }, turn.speaker, " ", element("span", { className: "facts" }, learnt)),
    tokenLine(turn, 0, turn.texts.length),
  );
}

/** Tokens from `start` to `end`, each told from the next by its ground. */
function tokenLine({ texts, learnt, special, ids }, start, end) {
  const made = [];
  for (let at = start; at < end; at++) {
    const kind = special[at] ? "mark-token" : `ground-${at % GROUNDS}`;
    const className = `token ${kind}${learnt[at] ? "" : " not-learnt"}`;
    made.push(element("span", { className, title: ids ? `${at}: id ${ids[at]}` : null }, texts[at]));
  }
  return element("div", { className: "tokens" }, ...made);
}

function legend() {
  const sample = (className, text) => element("span", { className: `token ${className}` }, text);
  return element(
    "p",
    { className: "legend facts" },
    sample("ground-0", "learnt"), " ", sample("ground-1", "learnt"), " ",
    sample("ground-0 not-learnt", "not learnt"), " ", sample("mark-token", "<|a mark|>"),
  );
}

function stretchTitle(look, of, split, part) {
  const name = part.document < 0 ? "" : ` ${count(part.document)}`;
  const title = `${of === "text" ? "Document" : "Conversation"}${name}`;
  const href = look.link("document", { split, number: part.document });
  const shown = of === "text" ? element("a", { href }, title) : title;
  const facts = element("span", { className: "facts" }, ` ${placeOf(part)}${wholeness(part)}`);
  return element("span", {}, shown, facts);
}

function wholeness({ offset, until, of_tokens: whole }) {
  if (!offset && until >= whole) return "";
  return `, tokens ${count(offset)} to ${count(until)} of ${count(whole)}`;
}

function neighbours(look, { row, num_rows: numRows }) {
  const to = (at, text) => element("a", { href: look.link("rows", { ...look.query, row: at }) }, text);
  return element(
    "nav",
    { className: "pages", "aria-label": "Rows" },
    row > 0 && to(row - 1, "Previous row"),
    row + 1 < numRows && to(row + 1, "Next row"),
  );
}
