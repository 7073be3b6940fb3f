// A conversation as a tree: every edit and every new answer is a branch, and none is lost.
//
// Nodes stand in one array and name their parent by its place, a smaller number: nodes are only ever added, so a tree
// has no ring, and a file that claims one is refused (record.js). `chosen` is the branch that is shown. A node of
// the assistant holds one answer, or two where models are compared; each model is told its own earlier answers.

/** A conversation that nothing was said in. */
export function newConversation() {
  const now = Date.now();
  return { id: newId(), title: "", createdAt: now, updatedAt: now, chosen: null, nodes: [] };
}

// crypto.randomUUID exists on https and localhost only; a page over plain http in a home network needs ids as well
function newId() {
  const random = crypto.getRandomValues(new Uint32Array(4));
  return Array.from(random, (number) => number.toString(16).padStart(8, "0")).join("-");
}

/** Adds what the user said under a parent (null: the beginning), shows that branch, gives its place. */
export function addUser(conversation, parent, text) {
  if (!conversation.title) conversation.title = titleFrom(text);
  return add(conversation, { role: "user", parent, chosen: null, text });
}

/** Adds an answer by each model under what the user said. */
export function addAssistant(conversation, parent, answers) {
  return add(conversation, { role: "assistant", parent, chosen: null, answers });
}

function add(conversation, node) {
  const place = conversation.nodes.push(node) - 1;
  choose(conversation, place);
  conversation.updatedAt = Date.now();
  return place;
}

/** Shows the branch of a node. */
export function choose(conversation, place) {
  const { parent } = conversation.nodes[place];
  if (parent === null) conversation.chosen = place;
  else conversation.nodes[parent].chosen = place;
}

/** The places of the nodes that are shown, first to last. */
export function shownPath(conversation) {
  const path = [];
  for (let place = conversation.chosen; place !== null; place = conversation.nodes[place].chosen) path.push(place);
  return path;
}

/** The places from the first node to this one. */
export function pathTo(conversation, place) {
  const path = [];
  for (let at = place; at !== null; at = conversation.nodes[at].parent) path.unshift(at);
  return path;
}

/** The places of a node and of its other versions, oldest first. */
export function versions(conversation, place) {
  const { parent } = conversation.nodes[place];
  return conversation.nodes.flatMap((node, other) => (node.parent === parent ? [other] : []));
}

/** The last place that is shown with this role, or null. */
export function lastShown(conversation, role) {
  return shownPath(conversation).findLast((place) => conversation.nodes[place].role === role) ?? null;
}

/** The messages up to a place as the API takes them, for one model; the first `forgotten` exchanges are left out. */
export function messagesFor(conversation, place, { model, system = "", forgotten = 0 }) {
  const path = pathTo(conversation, place).slice(2 * forgotten);
  const messages = path.map((at) => {
    const node = conversation.nodes[at];
    if (node.role === "user") return { role: "user", content: node.text };
    const own = node.answers.find((answer) => answer.model === model) ?? node.answers[0];
    return { role: "assistant", content: contentFrom(own.parts) };
  });
  return system ? [{ role: "system", content: system }, ...messages] : messages;
}

/** Plain text where there were no tool calls, else the parts as the model saw them in training. */
export function contentFrom(parts) {
  const told = parts.filter((part) => part.type !== "python_error");
  if (told.every((part) => part.type === "text")) return told.map((part) => part.text).join("");
  return told.map(({ type, text }) => ({ type, text }));
}

/** What an answer says, without its tool calls. */
export function textFrom(parts) {
  return parts.flatMap((part) => (part.type === "text" ? [part.text] : [])).join("");
}

function titleFrom(text) {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length > 60 ? `${line.slice(0, 59).trimEnd()}…` : line;
}
