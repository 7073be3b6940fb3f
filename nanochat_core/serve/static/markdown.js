// Markdown to DOM nodes: paragraphs, headings, lists, quotes, rules, code, emphasis, links. No HTML, ever.
//
// A model writes the text, so it is taken as hostile: only nodes of the kinds below are made, only http(s) links, and
// every pattern has a bound. `MarkdownView` keeps the blocks that did not change while an answer grows: a token costs
// the last block and not the whole answer, and selected text stays selected.
// A line break stays one, as in every chat; "#### 42" is how GSM8K marks a final answer, so it is shown as one; and
// as these models do sums and read Python's documentation, 2*3*4 and __init__ are no emphasis, unlike in CommonMark.

import { copyButton, element } from "./elements.js";

const MAX_DEPTH = 6; // of lists and quotes in each other, and of emphasis: more is drawn as plain text
const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*)$/;
const RULE = /^ {0,3}(?:-[ \t]*){3,}$|^ {0,3}(?:\*[ \t]*){3,}$|^ {0,3}(?:_[ \t]*){3,}$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,8})([-*+]|\d{1,9}[.)])(?: +|\t|$)/;

/** The nodes of a text, in a fragment. */
export function renderMarkdown(text) {
  const fragment = document.createDocumentFragment();
  const state = { heading: 3 };
  for (const block of splitBlocks(text)) fragment.append(renderBlock(block, state, 0));
  return fragment;
}

/** A growing text in an element of its own. */
export class MarkdownView {
  #shown = [];

  constructor() {
    this.node = element("div", { className: "markdown" });
  }

  update(text) {
    const blocks = splitBlocks(text);
    const keys = blocks.map((block) => JSON.stringify(block));
    let same = 0;
    while (same < keys.length && same < this.#shown.length && keys[same] === this.#shown[same]) same += 1;
    while (this.node.childNodes.length > same) this.node.lastChild.remove();
    const state = { heading: headingBefore(blocks, same) };
    for (const block of blocks.slice(same)) this.node.append(renderBlock(block, state, 0));
    this.#shown = keys;
  }
}

function headingBefore(blocks, end) {
  const state = { heading: 3 };
  for (const block of blocks.slice(0, end)) if (block.kind === "heading") headingLevel(block, state);
  return state.heading;
}

/** Blocks as data: {kind, lines | text, ...}; each is drawn by itself. */
export function splitBlocks(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const blocks = [];
  for (let at = 0; at < lines.length; ) {
    if (!lines[at].trim()) at += 1;
    else {
      const { block, next } = readBlock(lines, at);
      blocks.push(block);
      at = next;
    }
  }
  return blocks;
}

function readBlock(lines, start) {
  const line = lines[start];
  const fence = FENCE.exec(line);
  if (fence) return readFence(lines, start, fence);
  const heading = HEADING.exec(line);
  if (heading) {
    const text = heading[2].replace(/[ \t]#+[ \t]*$/, "");
    return { block: { kind: "heading", depth: heading[1].length, text }, next: start + 1 };
  }
  if (RULE.test(line)) return { block: { kind: "rule" }, next: start + 1 };
  if (QUOTE.test(line)) return readWhile(lines, start, "quote", (next) => QUOTE.test(next));
  if (ITEM.test(line)) return readList(lines, start);
  return readWhile(lines, start, "paragraph", (next) => next.trim() && !startsBlock(next));
}

function startsBlock(line) {
  return FENCE.test(line) || HEADING.test(line) || QUOTE.test(line) || RULE.test(line) || ITEM.test(line);
}

function readWhile(lines, start, kind, goesOn) {
  let next = start + 1;
  while (next < lines.length && goesOn(lines[next])) next += 1;
  return { block: { kind, lines: lines.slice(start, next) }, next };
}

function readFence(lines, start, [, mark, language]) {
  let end = start + 1;
  const closes = (line) => line.trimStart().startsWith(mark) && !line.trim().replaceAll(mark[0], "");
  while (end < lines.length && !closes(lines[end])) end += 1; // a fence that is still open holds the rest
  return { block: { kind: "code", language, text: lines.slice(start + 1, end).join("\n") }, next: end + 1 };
}

/** Items of one kind; lines that are indented, or follow without a blank line, belong to the item before. */
function readList(lines, start) {
  const [, indent, mark] = ITEM.exec(lines[start]);
  const isOrdered = /\d/.test(mark);
  const items = [];
  let next = start;
  let isBlank = false;
  for (; next < lines.length; next += 1) {
    const line = lines[next];
    const item = ITEM.exec(line);
    const depth = line.length - line.trimStart().length;
    if (!line.trim()) isBlank = true;
    else if (item && depth <= indent.length + 1) {
      if (/\d/.test(item[2]) !== isOrdered || RULE.test(line) || depth < indent.length) break;
      items.push({ width: item[0].length, lines: [line.slice(item[0].length)] });
      isBlank = false;
    } else if (depth > indent.length || (!isBlank && !startsBlock(line))) {
      const { width, lines: own } = items.at(-1);
      if (isBlank) own.push("");
      own.push(line.slice(Math.min(width, depth)));
      isBlank = false;
    } else break;
  }
  const first = isOrdered ? Number.parseInt(mark, 10) : null;
  return { block: { kind: "list", first, items: items.map((item) => item.lines.join("\n")) }, next };
}

function renderBlock(block, state, depth) {
  switch (block.kind) {
    case "heading":
      return renderHeading(block, state);
    case "rule":
      return element("hr");
    case "code":
      return codeBlock(block.text, block.language);
    case "quote":
      return nested(element("blockquote"), block.lines.map((line) => line.replace(QUOTE, "")).join("\n"), state, depth);
    case "list": {
      const list = block.first === null ? element("ul") : element("ol", { start: block.first });
      for (const item of block.items) list.append(nested(element("li"), item, state, depth));
      return list;
    }
    default:
      return inlineInto(element("p"), block.lines.join("\n"));
  }
}

function nested(node, text, state, depth) {
  const blocks = depth < MAX_DEPTH ? splitBlocks(text) : [{ kind: "paragraph", lines: [text] }];
  for (const block of blocks) {
    // a list item of one line is no paragraph of its own
    const isPlain = node.tagName === "LI" && block.kind === "paragraph" && block === blocks[0];
    if (isPlain) inlineInto(node, block.lines.join("\n"));
    else node.append(renderBlock(block, state, depth + 1));
  }
  return node;
}

function renderHeading(block, state) {
  if (block.depth === 4 && /^[-+$€£]?[\d.,]+%?$/.test(block.text.trim())) {
    return element("p", { className: "final-answer" }, "Answer ", element("strong", {}, block.text.trim()));
  }
  return inlineInto(element(`h${headingLevel(block, state)}`), block.text);
}

// the page uses h1 to h3; a reader who goes by headings must not fall into a gap when a model starts with "####"
function headingLevel(block, state) {
  state.heading = Math.min(block.depth + 3, state.heading + 1, 6);
  return state.heading;
}

function codeBlock(text, language) {
  const code = element("code", {}, text);
  const copy = copyButton("Copy code", () => code.textContent);
  const head = element("div", { className: "code-head" }, element("span", {}, language || "code"), copy);
  const label = language ? `Code, ${language}` : "Code";
  const scroller = element("pre", { tabindex: "0", role: "group", "aria-label": label }, code);
  return element("div", { className: "code-block" }, head, scroller);
}

// One token of inline text, each with a group of its own.
const INLINE = new RegExp(
  [
    /\\([!-/:-@[-`{-~])/, // an escape
    /(__[A-Za-z0-9]\w{0,80}?__(?!\w))/, // a dunder name
    /(`+)/, // the start of a code span
    /(\*{1,3}|_{1,3}|~~)/, // emphasis marks
    /\[([^\][\n]{1,500})\]\(\s{0,3}(<[^<>\n]{0,2000}>|[^\s()<>]{0,2000})\s{0,3}\)/, // a link
    /(https?:\/\/[^\s<>"'`*\\^{}|]{1,2000})/, // a bare address
    /(\n)/,
  ]
    .map((pattern) => pattern.source)
    .join("|"),
  "g",
);

/** Appends a line's text with its emphasis, code and links. */
function inlineInto(node, text) {
  const open = [{ node, mark: "" }];
  const codeEnds = new Map(); // run length -> the last place a closing run was looked for in vain
  const put = (child) => open.at(-1).node.append(child);
  let from = 0;
  INLINE.lastIndex = 0;
  for (let match = INLINE.exec(text); match; match = INLINE.exec(text)) {
    if (match.index > from) put(text.slice(from, match.index));
    from = INLINE.lastIndex;
    const [whole, escaped, dunder, ticks, mark, label, target, address, newline] = match;
    if (escaped ?? dunder) put(escaped ?? dunder);
    else if (newline) put(element("br"));
    else if (ticks) from = codeSpan(text, from, ticks, put, codeEnds);
    else if (mark) emphasis(open, mark, text[match.index - 1] ?? " ", text[from] ?? " ");
    else if (address) from = match.index + bareLink(address, put).length;
    else put(link(label, target.replace(/^<|>$/g, ""), whole));
    INLINE.lastIndex = from;
  }
  if (from < text.length) put(text.slice(from));
  while (open.length > 1) unwrap(open);
  return node;
}

function codeSpan(text, from, ticks, put, codeEnds) {
  if (!codeEnds.has(ticks.length)) {
    const closing = new RegExp(`(?<!\`)\`{${ticks.length}}(?!\`)`, "g");
    closing.lastIndex = from;
    const end = closing.exec(text);
    if (end) {
      const inner = text.slice(from, end.index).replaceAll("\n", " ");
      put(element("code", {}, inner.length > 2 && /^ .* $/.test(inner) ? inner.slice(1, -1) : inner));
      return end.index + ticks.length;
    }
    codeEnds.set(ticks.length, from);
  }
  put(ticks);
  return from;
}

const EMPHASIS = { "*": "em", _: "em", "**": "strong", __: "strong", "~~": "del", "***": "strong", ___: "strong" };

function emphasis(open, mark, before, after) {
  const [ends, starts] = mark[0] === "*" ? [/[\d)]/, /[\d(-]/] : [/[\p{L}\p{N}]/u, /[\p{L}\p{N}]/u];
  const isInWord = ends.test(before) && starts.test(after);
  const closes = !/\s/.test(before) && open.length > 1 && open.at(-1).mark === mark && !isInWord;
  const opens = !/\s/.test(after) && open.length <= MAX_DEPTH && !isInWord;
  if (closes) open.pop();
  else if (opens) {
    const node = element(EMPHASIS[mark]);
    open.at(-1).node.append(node);
    open.push({ node, mark });
  } else open.at(-1).node.append(mark);
}

/** A mark that was never closed is a character like any other. */
function unwrap(open) {
  const { node, mark } = open.pop();
  node.replaceWith(mark, ...node.childNodes);
}

function link(label, target, whole) {
  const href = safeAddress(target);
  return href ? element("a", { href, rel: "noopener noreferrer nofollow", target: "_blank" }, label) : whole;
}

function bareLink(address, put) {
  const trimmed = address.replace(/[.,:;!?)\]]{1,20}$/, "");
  const href = safeAddress(trimmed);
  put(href ? element("a", { href, rel: "noopener noreferrer nofollow", target: "_blank" }, trimmed) : trimmed);
  return trimmed;
}

/** The address where it is http(s), else null: javascript:, data: and relative ones are not followed. */
function safeAddress(target) {
  if (!/^https?:\/\//i.test(target)) return null;
  try {
    const url = new URL(target);
    return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}
