// The page put together: which part hears of what. Everything else is in the module that has its name.

import { Announcer } from "./announce.js";
import { usedContext } from "./answer.js";
import { Api } from "./api.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { Controls } from "./controls.js";
import { drawIcons, setIcon } from "./elements.js";
import { HistoryList } from "./history.js";
import { fromFragment, reproduceLink } from "./link.js";
import { ModelPicker, nameOf } from "./models.js";
import { Notice } from "./notice.js";
import { RecordError } from "./record.js";
import { Sidebar } from "./sidebar.js";
import { ConversationStore, readToken } from "./store.js";
import { nextTheme, theme, THEME_ICONS } from "./theme.js";
import { Thread } from "./thread.js";
import { lastShown } from "./tree.js";

let isReady = false;
const byId = (id) => document.getElementById(id);
drawIcons(document);

const notice = new Notice(byId("notice"), byId("toasts"));
const toast = (message, action) => notice.toast(message, action);
const store = new ConversationStore((message) => toast(message));
const api = new Api(document.baseURI, readToken);
const controls = new Controls(byId("settings-form"), drawInstructions);
const picker = new ModelPicker(
  { first: byId("model"), second: byId("model-b"), versus: byId("versus"), compare: byId("compare") },
  drawChoice,
);
const chat = new Chat(
  {
    api,
    store,
    announcer: new Announcer(byId("announcements")),
    chosenModels: () => picker.chosen,
    nextSampling: (asked) => controls.next(asked),
  },
  {
    onBranch: drawBranch,
    onState: drawState,
    onAnswer: (conversation, place) => thread.updateSoon(conversation, place),
    onError: (error) => error.kind === "token" && connection.askToken(),
  },
);
const thread = new Thread(byId("thread"), byId("scroller"), {
  findModel: (id) => picker.find(id),
  isBusy: () => chat.isBusy,
  onEdit: (place, text) => follow(() => chat.edit(place, text)),
  onRegenerate: (place) => follow(() => chat.regenerate(place)),
  onRetry: (place) => follow(() => chat.retry(place)),
  onChoose: (place) => chat.chooseVersion(place),
  linkFor: (place) => reproduceLink(location.href, chat.conversation, place),
});
const composer = new Composer(
  { form: byId("composer"), area: byId("prompt"), button: byId("send"), meter: byId("context") },
  { onSend: send, onStop: () => chat.stop(), onEditLast: () => thread.editLast() },
);
const sidebar = new Sidebar(byId("sidebar"), byId("scrim"), byId("stage"), byId("open-sidebar"));
const history = new HistoryList({ list: byId("conversations"), store, chat, toast, onOpen: openConversation });
const connection = new Connection(
  { api, notice, dialog: byId("token-dialog") },
  { onModels, onToken: () => chat.retryAfter("token") },
);
let hasModels = false;

function send(text) {
  if (!hasModels) {
    toast("No model can be reached yet; your text stays where it is.");
    return false;
  }
  const isTaken = chat.send(text);
  if (isTaken) thread.toBottom();
  return isTaken;
}

/** After a button that starts an answer, the keyboard is on the one that stops it. */
function follow(start) {
  start();
  if (chat.isBusy) byId("send").focus();
  thread.toBottom();
}

function openConversation(conversation) {
  sidebar.close();
  chat.open(conversation);
  composer.focus();
}

/** What goes to the model besides the shown messages: it stands above the box before anything is sent. */
function drawInstructions() {
  if (!isReady) return; // the parts are being put together
  const { conversation } = chat;
  const last = lastShown(conversation, "assistant");
  const failed = last === null ? [] : conversation.nodes[last].answers.filter(({ status }) => status === "error");
  const said = new Set([controls.sampling, ...failed.map(({ sampling }) => sampling)].map(({ system }) => system));
  said.delete("");
  byId("instructions").hidden = !said.size;
  byId("instructions-of").textContent = conversation.sampling
    ? "System prompt of this conversation, from a link:"
    : "System prompt:";
  byId("instructions-text").textContent = [...said].join("\n\n");
}

function drawBranch() {
  const { conversation } = chat;
  controls.use(conversation);
  drawInstructions();
  const isEmpty = !conversation.nodes.length;
  byId("empty").hidden = !isEmpty;
  byId("thread").hidden = isEmpty;
  thread.show(conversation);
  const last = lastShown(conversation, "assistant");
  const answers = last === null ? [] : conversation.nodes[last].answers;
  const used = answers.map((answer) => usedContext(answer.stats)).filter(Boolean);
  composer.showContext(used.sort((a, b) => b.tokens / b.of - a.tokens / a.of)[0] ?? null);
  document.title = conversation.title ? `${conversation.title} · nanochat` : "nanochat";
  drawState();
}

function drawState() {
  composer.setBusy(chat.isBusy);
  history.draw();
}

function drawChoice(entries) {
  const isOne = entries.length === 1;
  const kind = isOne ? "is a small language model" : "are small language models";
  const names = `${entries.map(nameOf).join(" and ")} ${kind}`;
  const warning = `${isOne ? "It makes" : "They make"} mistakes: check what ${isOne ? "it says" : "they say"}.`;
  byId("about").textContent = `${names}, trained from raw text with this project. ${warning}`;
}

function onModels(entries) {
  hasModels = true;
  picker.show(entries);
  openLink();
  drawBranch();
}

/** Fills the page in from a "reproduce" link, if the address is one; nothing is sent. */
function openLink() {
  try {
    const asked = fromFragment(location.hash);
    if (!asked) return;
    globalThis.history.replaceState(null, "", location.pathname + location.search);
    const missing = picker.choose(asked.models);
    openConversation(asked.conversation);
    composer.text = asked.prompt;
    const refOf = (id) => picker.find(id)?.nanochat?.ref;
    const other = asked.models.find((id, at) => asked.refs[at] && refOf(id) && refOf(id) !== asked.refs[at]);
    if (missing.length) toast(`This server does not have ${missing.join(" and ")}: another model would answer.`);
    else if (other) toast(`This server has another version of ${other}: the answer may differ.`);
    else toast("Everything is as it was for that answer: press Enter to make it again.");
  } catch (error) {
    if (!(error instanceof RecordError)) throw error;
    toast(`The link cannot be used: ${error.message}.`);
  }
}

function drawTheme() {
  setIcon(byId("theme"), THEME_ICONS[theme()]);
  byId("theme").setAttribute("aria-label", `Theme: ${theme()}`);
  byId("theme").title = `Theme: ${theme()}`;
}

byId("theme").addEventListener("click", () => (nextTheme(), drawTheme()));
byId("new-chat").addEventListener("click", () => openConversation());
byId("export").addEventListener("click", () => history.exportFile());
byId("import").addEventListener("click", () => byId("import-file").click());
byId("import-file").addEventListener("change", async ({ target }) => {
  if (target.files.length) await history.importFile(target.files[0]);
  target.value = "";
});
byId("open-settings").addEventListener("click", () => byId("settings").showModal());
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", ({ target }) => target === dialog && dialog.close()); // a click beside it
}
for (const example of document.querySelectorAll(".example")) {
  const prompt = example.querySelector(".example-prompt").textContent;
  example.addEventListener("click", () => send(prompt) && composer.focus());
}
byId("scroller").addEventListener("scroll", () => (byId("to-bottom").hidden = thread.isAtBottom), { passive: true });
byId("to-bottom").addEventListener("click", () => thread.toBottom({ isSmooth: true }));
addEventListener("hashchange", () => hasModels && openLink());
addEventListener("storage", () => history.reload());
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]") && !sidebar.close()) chat.stop();
  if (event.key.toLowerCase() === "o" && event.shiftKey && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    openConversation();
  }
});

isReady = true;
drawTheme();
drawBranch();
connection.connect();
