// Which model answers, or which two: the pickers, and the figures that stand under a name.
//
// The figures come from the server's list (bits per byte: lower is better; CORE: higher is better). A base model only
// goes on with text, so its kind is said with its name.

import { element } from "./elements.js";
import { keepSettings, loadSettings } from "./store.js";

const SHOWN_VERSION_CHARS = 7; // as git shortens
const KINDS = { base: "base", chat: "chat", rl: "chat + RL" };

/** The figures of a model in words, e.g. ["1.1M parameters", "1.520 bits per byte", "CORE 0.021"]. */
export function figuresOf(entry) {
  const { num_parameters: size, bits_per_byte: bits, core } = entry?.nanochat ?? {};
  const known = [];
  if (Number.isFinite(size)) known.push(`${shortCount(size)} parameters`);
  known.push(Number.isFinite(bits) ? `${bits.toFixed(3)} bits per byte` : "bits per byte not measured");
  known.push(Number.isFinite(core) ? `CORE ${core.toFixed(3)}` : "CORE not measured");
  return known;
}

/** 1234567 -> "1.2M". */
export function shortCount(count) {
  const [divisor, unit] = count >= 1e9 ? [1e9, "B"] : count >= 1e6 ? [1e6, "M"] : count >= 1e3 ? [1e3, "k"] : [1, ""];
  const scaled = count / divisor;
  return `${scaled >= 100 || unit === "" ? Math.round(scaled) : scaled.toFixed(1)}${unit}`;
}

/** The name under which people know a model. */
export function nameOf(entry) {
  return entry.name ?? nameForms(entry.id)[0];
}

/** Without its version, with the beginning of it, or whole: the first that no other model has. */
function shortestName(id, entries) {
  const isOwn = (form, at) => entries.every((other) => other.id === id || nameForms(other.id)[at] !== form);
  return nameForms(id).find(isOwn) ?? id;
}

function nameForms(id) {
  const [name, version] = id.split("@");
  return [name, `${name}@${(version ?? "").slice(0, SHOWN_VERSION_CHARS)}`, id];
}

export class ModelPicker {
  #entries = [];
  #onChange;

  /** parts: {first, second (select elements), versus, compare (button)} */
  constructor(parts, onChange) {
    this.parts = parts;
    this.#onChange = onChange;
    for (const select of [parts.first, parts.second]) select.addEventListener("change", () => this.#changed());
    parts.compare.addEventListener("click", () => this.setCompare(!this.isCompare));
  }

  get isCompare() {
    return this.parts.compare.getAttribute("aria-pressed") === "true";
  }

  /** The entries that answer: one, or two where models are compared. */
  get chosen() {
    const entries = [this.find(this.parts.first.value)];
    if (this.isCompare) entries.push(this.find(this.parts.second.value));
    return entries.filter(Boolean);
  }

  /** The entry with this id, as long as the server has it. */
  find(id) {
    return this.#entries.find((entry) => entry.id === id);
  }

  show(entries) {
    const { first, second, compare } = this.parts;
    const kept = loadSettings();
    this.#entries = entries.map((entry) => ({ ...entry, name: shortestName(entry.id, entries) }));
    const option = (entry) => element("option", { value: entry.id }, labelOf(entry));
    for (const select of [first, second]) {
      select.replaceChildren(...this.#entries.map(option));
      select.disabled = entries.length < 2;
    }
    const chat = entries.find((entry) => entry.nanochat?.kind !== "base") ?? entries[0];
    first.value = (this.find(kept.model) ?? chat).id;
    const other = entries.find((entry) => entry.id !== first.value) ?? entries[0];
    second.value = (this.find(kept.compareWith) ?? other).id;
    compare.disabled = entries.length < 2;
    compare.title = compare.disabled ? "Start the server with two models to compare them" : "Compare two models";
    this.setCompare(kept.isCompare === true && entries.length > 1);
  }

  setCompare(isCompare, { isKept = true } = {}) {
    const { compare, second, versus } = this.parts;
    compare.setAttribute("aria-pressed", String(isCompare));
    second.hidden = versus.hidden = !isCompare;
    this.#changed({ isKept });
  }

  /** Chooses by id, as a link asks for, until the page goes; gives the ids that the server does not have. */
  choose(ids) {
    const [first, second] = ids.map((id) => this.find(id)?.id);
    if (first) this.parts.first.value = first;
    if (second) this.parts.second.value = second;
    this.setCompare(Boolean(second), { isKept: false });
    return ids.filter((id) => !this.find(id));
  }

  #changed({ isKept = true } = {}) {
    const { first, second } = this.parts;
    if (isKept) keepSettings({ model: first.value, compareWith: second.value, isCompare: this.isCompare });
    for (const select of [first, second]) select.title = figuresOf(this.find(select.value)).join(" · ");
    this.#onChange(this.chosen);
  }
}

/** The name, and the kind where the name does not say it. */
function labelOf(entry) {
  const kind = KINDS[entry.nanochat?.kind];
  return kind && !entry.id.includes(kind) ? `${nameOf(entry)} (${kind})` : nameOf(entry);
}
