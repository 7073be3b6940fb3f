// The "reproduce" link: all that decides an answer, in the address's fragment, which no browser sends to a server.
//
// It holds the models (with the version that answered), the sampling with its seed, the system prompt, what was said
// before, and the prompt. Opening it fills the page in; sending stays a deed of the person who opened it.

import { answerFrom, conversationFrom, RecordError, samplingFrom, SAMPLING_LIMITS } from "./record.js";
import { newConversation, pathTo } from "./tree.js";

const MARK = "#reproduce?";
const MAX_CHARS = 200_000;

/** The link to one assistant node (its place) of a conversation. */
export function reproduceLink(address, conversation, place) {
  const node = conversation.nodes[place];
  const { sampling, forgotten } = node.answers[0];
  const path = pathTo(conversation, place).slice(0, -1).map((at) => conversation.nodes[at]);
  const before = path.slice(2 * forgotten, -1).map(entryFrom);
  const query = new URLSearchParams();
  for (const answer of node.answers) query.append("model", answer.model);
  for (const answer of node.answers) query.append("ref", answer.ref);
  for (const name of Object.keys(SAMPLING_LIMITS)) if (sampling[name] !== null) query.set(name, sampling[name]);
  if (sampling.system) query.set("system", sampling.system);
  if (before.length) query.set("before", JSON.stringify(before));
  query.set("prompt", path.at(-1).text);
  const url = new URL(address);
  url.hash = "";
  return url.href.replace(/#$/, "") + MARK + query;
}

function entryFrom(node) {
  if (node.role === "user") return { text: node.text };
  return { answers: node.answers.map(({ model, ref, parts }) => ({ model, ref, parts })) };
}

/** What a fragment asks for: {models, refs, sampling, conversation, prompt}; null where it is no such link. */
export function fromFragment(fragment) {
  if (!fragment.startsWith(MARK)) return null;
  if (fragment.length > MAX_CHARS) throw new RecordError("this link is too long to be one of this page");
  const query = new URLSearchParams(fragment.slice(MARK.length));
  const given = Object.keys(SAMPLING_LIMITS).map((name) => [name, query.has(name) ? Number(query.get(name)) : null]);
  const sampling = samplingFrom({ ...Object.fromEntries(given), system: query.get("system") ?? "" });
  return {
    models: query.getAll("model").slice(0, 2),
    refs: query.getAll("ref").slice(0, 2),
    sampling,
    conversation: { ...conversationBefore(query.get("before")), sampling },
    prompt: query.get("prompt") ?? "",
  };
}

function conversationBefore(text) {
  const conversation = newConversation();
  if (text === null) return conversation;
  let entries;
  try {
    entries = JSON.parse(text);
  } catch {
    entries = null;
  }
  if (!Array.isArray(entries)) throw new RecordError("this link is damaged: what was said before cannot be read");
  const nodes = entries.map((entry, place) => {
    const common = { parent: place ? place - 1 : null, chosen: place + 1 < entries.length ? place + 1 : null };
    if (typeof entry?.text === "string") return { role: "user", text: entry.text, ...common };
    const answers = Array.isArray(entry?.answers) ? entry.answers : [];
    const checked = answers.map((answer) => ({ ...answerFrom(answer), status: "done" }));
    return { role: "assistant", answers: checked, ...common };
  });
  const title = typeof entries[0]?.text === "string" ? entries[0].text.trim().slice(0, 60) : "";
  return conversationFrom({ ...conversation, title, nodes, chosen: nodes.length ? 0 : null });
}
