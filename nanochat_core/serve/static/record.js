// What a conversation must look like to be let in: from this browser's storage, from a file, or from a link.
//
// All three can be written by someone else, so nothing is taken over as it is: a new object is built from the fields
// that are known, with their types and sizes checked, and the rest is left behind. What is wrong is said in words.

const MAX_NODES = 4000;
const MAX_PARTS = 2000;
const MAX_TEXT_CHARS = 400_000;
const MAX_NAME_CHARS = 300;
const MAX_CONVERSATIONS = 5000;
const PART_TYPES = ["text", "python", "python_output", "python_error"];
const STATUSES = ["done", "stopped", "error"];
const STATS = ["ttftS", "tokensPerS", "numChunks", "promptTokens", "completionTokens", "contextTokens", "seed"];
export const FORMAT = "nanochat-conversations";
export const VERSION = 1;

/** A file, a link or a stored conversation is not what it should be. */
export class RecordError extends Error {}

/** The numbers that sampling takes: [least, most, whole]; null means that the server decides or that it is off. */
export const SAMPLING_LIMITS = {
  temperature: [0, 2, false],
  top_k: [1, 1_000_000, true],
  top_p: [0.01, 1, false],
  max_tokens: [1, 1_000_000, true],
  seed: [0, 2 ** 31 - 1, true],
};

/** A checked copy of a conversation. An answer that was under way when the page went is one that was stopped. */
export function conversationFrom(value) {
  const source = object(value, "a conversation");
  const nodes = list(source.nodes, "nodes", MAX_NODES).map(nodeFrom);
  const checkChild = (child, parent) => {
    if (child === null) return null;
    if (Number.isInteger(child) && nodes[child]?.parent === parent) return child;
    throw new RecordError(`there is no branch ${shown(child)}`);
  };
  nodes.forEach((node, place) => {
    const above = node.parent === null ? null : nodes[node.parent];
    const expected = above?.role === "user" ? "assistant" : "user";
    if (node.role !== expected) throw new RecordError(`message ${place + 1} is not from the ${expected}`);
    node.chosen = checkChild(node.chosen, place);
  });
  return {
    id: text(source.id, "id", 100),
    title: text(source.title, "title"),
    createdAt: number(source.createdAt, "createdAt", 0, 1e14),
    updatedAt: number(source.updatedAt, "updatedAt", 0, 1e14),
    chosen: checkChild(source.chosen ?? null, null),
    nodes,
    // settings of this conversation alone, which came with a link
    ...(source.sampling ? { sampling: samplingFrom(source.sampling) } : {}),
  };
}

/** The conversations of an exported file's text. */
export function conversationsFromFile(content) {
  let value;
  try {
    value = JSON.parse(content);
  } catch {
    throw new RecordError("this file is not JSON");
  }
  const source = object(value, "the file");
  if (source.format !== FORMAT) throw new RecordError(`its format is ${shown(source.format)}, not "${FORMAT}"`);
  if (source.version !== VERSION) throw new RecordError(`its version is ${shown(source.version)}, not ${VERSION}`);
  return list(source.conversations, "conversations", MAX_CONVERSATIONS).map(conversationFrom);
}

/** The text of a file that holds these conversations. */
export function fileFrom(conversations) {
  const exportedAt = new Date().toISOString();
  return JSON.stringify({ format: FORMAT, version: VERSION, exportedAt, conversations }, null, 1);
}

/** Checked sampling, with the system prompt; what is missing is null. */
export function samplingFrom(value) {
  const source = object(value ?? {}, "sampling");
  const sampling = {};
  for (const [name, [least, most, isWhole]] of Object.entries(SAMPLING_LIMITS)) {
    const given = source[name] ?? null;
    sampling[name] = given === null ? null : number(given, name, least, most);
    if (isWhole && given !== null && !Number.isInteger(given)) throw new RecordError(`${name} is not a whole number`);
  }
  return { ...sampling, system: text(source.system ?? "", "system", MAX_TEXT_CHARS) };
}

function nodeFrom(value, place) {
  const source = object(value, `message ${place + 1}`);
  const parent = source.parent ?? null;
  if (parent !== null && !(Number.isInteger(parent) && parent >= 0 && parent < place)) {
    throw new RecordError(`message ${place + 1} does not come after message ${shown(parent)}`);
  }
  const common = { parent, chosen: source.chosen ?? null };
  if (source.role === "user") return { role: "user", ...common, text: text(source.text, "text", MAX_TEXT_CHARS) };
  if (source.role !== "assistant") throw new RecordError(`message ${place + 1} is from ${shown(source.role)}`);
  const answers = list(source.answers, "answers", 2).map(answerFrom);
  if (!answers.length) throw new RecordError(`message ${place + 1} has no answer`);
  return { role: "assistant", ...common, answers };
}

/** A checked copy of an answer. */
export function answerFrom(value) {
  const source = object(value, "an answer");
  const parts = list(source.parts, "parts", MAX_PARTS).map((part) => {
    const { type, text: said } = object(part, "a part");
    if (!PART_TYPES.includes(type)) throw new RecordError(`a part is ${shown(type)}, not text or a tool call`);
    return { type, text: text(said, "a part's text", MAX_TEXT_CHARS) };
  });
  return {
    model: text(source.model, "model"),
    ref: text(source.ref ?? "", "ref"),
    sampling: samplingFrom(source.sampling),
    parts,
    status: STATUSES.includes(source.status) ? source.status : "stopped",
    finish: source.finish ? text(source.finish, "finish", 40) : null,
    error: source.error ? errorFrom(source.error) : null,
    stats: source.stats ? statsFrom(source.stats) : null,
    forgotten: number(source.forgotten ?? 0, "forgotten", 0, MAX_NODES),
  };
}

function errorFrom({ kind, message }) {
  return { kind: text(kind, "an error's kind"), message: text(message, "an error's message", MAX_TEXT_CHARS) };
}

function statsFrom(value) {
  const source = object(value, "stats");
  const stats = { isEstimate: source.isEstimate === true };
  for (const name of STATS) {
    stats[name] = typeof source[name] === "number" && Number.isFinite(source[name]) ? source[name] : null;
  }
  return stats;
}

function object(value, name) {
  if (value !== null && typeof value === "object" && !Array.isArray(value)) return value;
  throw new RecordError(`${name} is not an object`);
}

function list(value, name, most) {
  if (!Array.isArray(value)) throw new RecordError(`${name} is not a list`);
  if (value.length > most) throw new RecordError(`${name} has ${value.length} entries; at most ${most} are read`);
  return value;
}

function text(value, name, most = MAX_NAME_CHARS) {
  if (typeof value !== "string") throw new RecordError(`${name} is not text`);
  if (value.length > most) throw new RecordError(`${name} has ${value.length} characters; at most ${most} are read`);
  return value;
}

function number(value, name, least, most) {
  if (typeof value !== "number" || !(value >= least && value <= most)) {
    throw new RecordError(`${name} is ${shown(value)}, not a number from ${least} to ${most}`);
  }
  return value;
}

/** A value that is wrong, short enough to be read. */
function shown(value) {
  return (JSON.stringify(value) ?? "missing").slice(0, 40);
}
