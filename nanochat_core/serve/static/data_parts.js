// What the views of the data page share: fields that go into the address, places, pages of a list.

import { element } from "./elements.js";

/** A number as people write it. */
export const count = (number) => Number(number).toLocaleString("en");

/** Where something is from: "b.jsonl, line 41". */
export function placeOf({ file, line }) {
  return file ? `${file}, line ${count(line)}` : "from no file that is known";
}

/**
 * A form whose fields are said in the address when it is sent.
 * fields: {name, label, kind ("text", "number", "choice", "check"), value, choices, least}
 */
export function askForm(label, fields, go) {
  const form = element("form", { className: "ask", "aria-label": label });
  form.append(...fields.map(fieldOf), element("button", { type: "submit", className: "accent-button" }, "Show"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const values = fields.map(({ name, kind }) => {
      const field = form.elements[name];
      return [name, kind === "check" ? (field.checked ? "true" : "") : field.value.trim()];
    });
    go(Object.fromEntries(values));
  });
  return form;
}

function fieldOf({ name, label, kind, value = "", choices = [], least = 0 }) {
  if (kind === "choice") {
    const options = choices.map(([key, said]) =>
      element("option", { value: key, selected: key === value }, said),
    );
    return element("label", {}, label, element("select", { name }, ...options));
  }
  if (kind === "check") {
    const box = element("input", { type: "checkbox", name, checked: value === "true" });
    return element("label", { className: "check" }, box, label);
  }
  const type = kind === "number" ? "number" : "search";
  const field = element("input", { type, name, min: kind === "number" && String(least) });
  field.value = value;
  return element("label", { className: `of-${kind}` }, label, field);
}

export const SPLITS = [["train", "training"], ["validation", "validation"]];

/** Links to the first page of a list and to the next one. */
export function pages(look, view, next) {
  const start = Number(look.query.start ?? 0);
  const to = (at) => look.link(view, { ...look.query, start: at });
  return element(
    "nav",
    { className: "pages", "aria-label": "Pages" },
    start > 0 && element("a", { href: to(0) }, "From the beginning"),
    next !== null && element("a", { href: to(next) }, "Go on"),
  );
}

/** A table with a caption; cells are texts or nodes, numbers stand to the right. */
export function table(caption, heads, rows, { hidden = false } = {}) {
  const cell = (value) =>
    typeof value === "number"
      ? element("td", { className: "number" }, count(value))
      : element("td", {}, value ?? "");
  const head = (text, at) =>
    element("th", { scope: "col", className: typeof rows[0]?.[at] === "number" ? "number" : null }, text);
  return element(
    "div",
    { className: "table", role: "region", "aria-label": caption, tabindex: "0" },
    element(
      "table",
      {},
      element("caption", { className: hidden ? "visually-hidden" : null }, caption),
      element("thead", {}, element("tr", {}, ...heads.map(head))),
      element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map(cell)))),
    ),
  );
}
