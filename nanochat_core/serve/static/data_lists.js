// Overview, documents, one document, and what cleaning removed.

import { element } from "./elements.js";
import { askForm, count, pages, placeOf, SPLITS, table } from "./data_parts.js";

const NAMES = { train_docs: "documents for training", train_bytes: "bytes for training",
  validation_docs: "documents for validation", validation_bytes: "bytes for validation" };
const BEGINNING_CHARS = 600;

/** How much there is of what. */
export async function overviewPage(look) {
  const found = await look.ask("overview");
  const texts = Object.entries(found.texts).flatMap(([step, numbers]) =>
    Object.entries(NAMES).filter(([name]) => name in numbers).map(([name, said]) => [step, said, numbers[name]]),
  );
  const removed = Object.entries(found.removed).flatMap(([step, rules]) =>
    Object.entries(rules).map(([rule, number]) => [
      step, element("a", { href: look.link("removed", { rule }) }, `removed: ${rule}`), number,
    ]),
  );
  const rows = ["tokens", "conversations"].flatMap((step) =>
    Object.entries(found[step]).map(([name, number]) => [step, name.replaceAll("_", " "), number]),
  );
  const trained = Object.entries(found.trainings).map(([training, steps]) => [
    training, element("a", { href: look.link("steps", { training }) }, "steps"), steps,
  ]);
  return [
    element("h2", {}, found.run_id),
    table("What this run learnt from", ["step", "what", "how much"], [...texts, ...removed, ...rows, ...trained], {
      hidden: true,
    }),
  ];
}

/** Documents of the text, all of them or those that hold something. */
export async function documentsPage(look) {
  const { split = "train", search = "", file = "", start = 0 } = look.query;
  const form = askForm(
    "Documents",
    [
      { name: "split", label: "of", kind: "choice", value: split, choices: SPLITS },
      { name: "search", label: "with the text", kind: "text", value: search },
      { name: "file", label: "in files named", kind: "text", value: file },
      { name: "start", label: "from number", kind: "number", value: start },
    ],
    look.go,
  );
  const found = await look.ask("documents", { split, search, file, start });
  const listed = found.documents.map((one) =>
    element(
      "li",
      { className: "card" },
      head(look.link("document", { split, number: one.number }), `Document ${count(one.number)}`, one),
      shownText(one.text.slice(0, BEGINNING_CHARS), search, one.num_chars > BEGINNING_CHARS),
    ),
  );
  return [
    element("h2", {}, "Documents"),
    form,
    listed.length
      ? element("ol", { className: "cards" }, ...listed)
      : element("p", { className: "nothing" }, "There is no such document."),
    pages(look, "documents", found.next),
  ];
}

/** One document with all of its text. */
export async function documentPage(look) {
  const { split = "train", number = 0 } = look.query;
  const found = await look.ask("document", { split, number });
  const isCut = found.text.length < found.num_chars;
  return [
    element("h2", {}, `Document ${count(found.number)}`),
    element("p", { className: "facts" }, `${placeOf(found)} · ${count(found.num_chars)} characters · ${split}`),
    shownText(found.text, "", isCut),
  ];
}

/** What cleaning took out, and why. */
export async function removedPage(look) {
  const { rule = "", search = "", near = "", start = 0 } = look.query;
  const found = await look.ask("removed", { rule, search, near, start });
  const rules = [...new Set(Object.values(found.steps).flatMap((counts) => Object.keys(counts)))];
  const form = askForm(
    "What was removed",
    [
      { name: "rule", label: "by the rule", kind: "choice", value: rule,
        choices: [["", "any"], ...rules.map((each) => [each, each])] },
      { name: "search", label: "with the text", kind: "text", value: search },
      { name: "near", label: "what was near, and stayed", kind: "check", value: near },
    ],
    look.go,
  );
  const listed = found.documents.map((one) =>
    element(
      "li",
      { className: "card" },
      head(null, one.rule, one),
      element(
        "p",
        { className: "facts" },
        `${one.is_kept ? "near the line of" : "removed by"} ${one.step}` +
          (one.score === null ? "" : ` · score ${one.score.toFixed(3)}`) + (one.twin ? ` · twin: ${one.twin}` : ""),
      ),
      shownText(one.text, search, one.num_chars > one.text.length),
    ),
  );
  return [
    element("h2", {}, near === "true" ? "Near the line" : "Removed"),
    form,
    listed.length
      ? element("ol", { className: "cards" }, ...listed)
      : element("p", { className: "nothing" }, "There is no such document."),
    pages(look, "removed", found.next),
  ];
}

function head(href, title, one) {
  const name = href ? element("a", { href }, title) : title;
  const facts = element("span", { className: "facts" }, `${placeOf(one)} · ${count(one.num_chars)} characters`);
  return element("h3", {}, name, " ", facts);
}

/** A text as it is, with what was looked for marked. */
function shownText(text, search, isCut) {
  const parts = [];
  const [low, wanted] = [text.toLowerCase(), search.toLowerCase()];
  const isComparable = wanted && low.length === text.length; // some letters get longer in small
  let at = 0;
  for (let next; isComparable && (next = low.indexOf(wanted, at)) >= 0; at = next + wanted.length) {
    parts.push(text.slice(at, next), element("mark", {}, text.slice(next, next + wanted.length)));
  }
  const properties = { className: "text", tabindex: "0", role: "group", "aria-label": "Text" };
  return element("pre", properties, ...parts, text.slice(at), isCut && "…");
}
