// DOM nodes from data: the only way this page makes markup.
//
// Text always becomes a text node, so nothing that a model, a file or a link says can turn into markup, and the page
// works under `default-src 'self'`. Icons are drawn here as paths: one file less to fetch, and in the text's colour.

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  plus: "M12 5v14M5 12h14",
  menu: "M4 7h16M4 12h16M4 17h16",
  close: "M6 6l12 12M18 6L6 18",
  send: "M12 19V5M5.5 11.5L12 5l6.5 6.5",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h10v11H9zM6 15H5V4h10v2",
  done: "M5 12.5l4.5 4.5L19 7.5",
  edit: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  again: "M19 12a7 7 0 1 1-2.2-5.1M19 4v4h-4",
  link: "M10 14a4 4 0 0 0 5.7 0l3-3a4 4 0 0 0-5.7-5.7L12 6.3M14 10a4 4 0 0 0-5.7 0l-3 3a4 4 0 0 0 5.7 5.7l1-1",
  left: "M14.5 6l-6 6 6 6",
  right: "M9.5 6l6 6-6 6",
  trash: "M5 7h14M10 7V5h4v2M7 7l1 13h8l1-13",
  columns: "M4 5h7v14H4zM13 5h7v14h-7z",
  sliders: "M4 8h9M17 8h3M4 16h3M11 16h9M13 6v4h4V6zM7 14v4h4v-4z",
  calculator: "M6 3.5h12v17H6zM9 7.5h6M9 12h.01M12 12h.01M15 12h.01M9 16h.01M12 16h.01M15 16h.01",
  sun:
    "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2" +
    "M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4M18.7 5.3l-1.4 1.4M6.7 17.3l-1.4 1.4",
  moon: "M19.5 14.5A8 8 0 0 1 9.5 4.5a8 8 0 1 0 10 10z",
  system: "M4 5h16v11H4zM9 20h6M12 16v4",
  down: "M12 5v14M5.5 12.5L12 19l6.5-6.5",
};

/** An element with properties ("on..." are listeners, "aria-..." and "data-..." attributes) and children. */
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "className") node.className = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An icon; it says nothing to a screen reader, the button's label does. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button that is an icon: its label is read aloud, and shown under the pointer. */
export function iconButton(name, label, onclick, properties = {}) {
  const named = { type: "button", className: "icon-button", "aria-label": label, title: label };
  return element("button", { ...named, onclick, ...properties }, icon(name));
}

/** Another icon in a button that has one. */
export function setIcon(button, name) {
  button.querySelector(".icon").replaceWith(icon(name));
}

/** Puts the icons into the buttons that stand in the page with data-icon="name". */
export function drawIcons(root) {
  for (const holder of root.querySelectorAll("[data-icon]")) holder.prepend(icon(holder.dataset.icon));
}

/** Facts in one line, "a · b · c", which breaks between them only. */
export function dotted(facts) {
  return facts.flatMap((fact, at) => [at ? " · " : "", element("span", { className: "nowrap" }, fact)]);
}

/** A button that copies what `read()` gives, and says that it did. */
export function copyButton(label, read, name = "copy") {
  const button = iconButton(name, label, async () => {
    const isCopied = await copyText(read());
    setIcon(button, isCopied ? "done" : "close");
    button.setAttribute("aria-label", isCopied ? "Copied" : "Could not copy");
    setTimeout(() => {
      setIcon(button, name);
      button.setAttribute("aria-label", label);
    }, 1500);
  });
  return button;
}

/** False where the browser allows no writing to the clipboard. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text); // the clipboard interface needs https or localhost
  }
}

function copyBySelection(text) {
  const area = element("textarea", { className: "visually-hidden", readonly: true });
  area.value = text;
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return isCopied;
}
