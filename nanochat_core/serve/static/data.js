// The data page put together: the run and the view are in the address after #, so that each look has a link of its own
// and the browser's back button goes to the one before. What a view shows is in the module that has its name.

import { Api } from "./api.js";
import { drawIcons, element, setIcon } from "./elements.js";
import { documentPage, documentsPage, overviewPage, removedPage } from "./data_lists.js";
import { conversationsPage, rowPage } from "./data_rows.js";
import { stepsPage } from "./data_steps.js";
import { Notice } from "./notice.js";
import { keepToken, readToken } from "./store.js";
import { nextTheme, theme, THEME_ICONS } from "./theme.js";

const VIEWS = {
  overview: ["Overview", overviewPage],
  documents: ["Documents", documentsPage],
  document: [null, documentPage],
  rows: ["Rows", rowPage],
  conversations: ["Conversations", conversationsPage],
  removed: ["Removed", removedPage],
  steps: ["Steps", stepsPage],
};
const byId = (id) => document.getElementById(id);
const api = new Api(document.baseURI, readToken);
const notice = new Notice(byId("notice"), byId("toasts"));
let drawing = 0;

/** The view that the address asks for, and what it says about it. */
function asked() {
  const [name, query] = location.hash.replace(/^#/, "").split("?");
  const view = Object.hasOwn(VIEWS, name) ? name : "overview";
  return { view, query: Object.fromEntries(new URLSearchParams(query)) };
}

/** The run that is shown: the address says it, else the list of runs, whose first is the newest. */
const shownRun = () => asked().query.run ?? byId("run").value;

/** The address of a view of that run. */
function link(view, query = {}) {
  const said = Object.entries({ run: shownRun(), ...query }).filter(([, value]) => value !== "" && value !== null);
  return `#${view}?${new URLSearchParams(said)}`;
}

async function draw() {
  const mine = ++drawing;
  const { view, query } = asked();
  const [title, page] = VIEWS[view];
  byId("shown").setAttribute("aria-busy", "true");
  drawViews(view);
  const look = {
    query,
    link,
    ask: (path, said = {}) => api.data(path, { run: shownRun(), ...said }),
    go: (said) => (location.hash = link(view, said)),
  };
  try {
    const made = await page(look);
    if (mine !== drawing) return;
    notice.clear();
    byId("shown").replaceChildren(...made);
  } catch (error) {
    if (mine !== drawing) return;
    if (error.kind === "token") askToken();
    else if (error.kind === undefined) throw error;
    else byId("shown").replaceChildren(element("p", { className: "nothing", role: "status" }, error.message));
  }
  document.title = `${title ?? "Document"} · data · nanochat`;
  byId("shown").setAttribute("aria-busy", "false");
}

function drawViews(current) {
  const items = Object.entries(VIEWS).filter(([, [title]]) => title);
  byId("views").replaceChildren(
    ...items.map(([name, [title]]) => {
      const isHere = name === current || (current === "document" && name === "documents");
      return element("li", {}, element("a", { href: link(name), "aria-current": isHere ? "page" : null }, title));
    }),
  );
}

/** Fills the list of runs, then draws; without a token the server says nothing, and is asked again with one. */
async function start() {
  try {
    const runs = await api.data("runs");
    const options = runs.map(({ run_id: id, last_step: last }) => element("option", { value: id }, `${id} (${last})`));
    byId("run").replaceChildren(...options);
    byId("run").hidden = !runs.length;
    const chosen = asked().query.run;
    if (runs.some(({ run_id: id }) => id === chosen)) byId("run").value = chosen;
    await draw();
  } catch (error) {
    if (error.kind === "token") return askToken();
    if (error.kind === undefined) throw error;
    notice.show(error.message, { label: "Try again", act: start });
  }
}

function askToken() {
  const dialog = byId("token-dialog");
  notice.show("The server asks for its token.", { label: "Enter the token", act: askToken });
  dialog.querySelector(".problem").textContent = readToken() ? "That token was not accepted." : "";
  if (!dialog.open) dialog.showModal();
}

function drawTheme() {
  setIcon(byId("theme"), THEME_ICONS[theme()]);
  byId("theme").setAttribute("aria-label", `Theme: ${theme()}`);
  byId("theme").title = `Theme: ${theme()}`;
}

drawIcons(document);
drawTheme();
byId("theme").addEventListener("click", () => (nextTheme(), drawTheme()));
byId("run").addEventListener("change", ({ target }) => {
  const { view } = asked();
  location.hash = `#${view === "document" ? "documents" : view}?${new URLSearchParams({ run: target.value })}`;
});
byId("token-dialog").querySelector("form").addEventListener("submit", () => {
  const input = byId("token-dialog").querySelector("input");
  keepToken(input.value.trim());
  input.value = "";
  start();
});
addEventListener("hashchange", draw);
start();
