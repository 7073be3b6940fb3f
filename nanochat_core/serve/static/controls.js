// The settings: how the next answer is sampled, and the system prompt.
//
// They are this browser's, and kept, unless the shown conversation came with settings of its own: those of a link are
// somebody else's words. They are in force in that conversation alone, and kept with it and nowhere else.
//
// Every field is checked against the same limits as a link or a file (record.js). A blank field is off, or left to the
// server; a blank seed is drawn anew for each answer and stands under it, so that any answer can be made again.

import { samplingFrom, SAMPLING_LIMITS } from "./record.js";
import { keepSettings, loadSettings } from "./store.js";

const DEFAULTS = { temperature: 0.6, top_k: 50, top_p: null, max_tokens: null, seed: null, system: "" };

export class Controls {
  #form;
  #own;
  #conversation = null;
  #onChange;

  constructor(form, onChange = () => {}) {
    this.#form = form;
    this.#onChange = onChange;
    for (const [name, [least, most, isWhole]] of Object.entries(SAMPLING_LIMITS)) {
      Object.assign(form.elements[name], { min: String(least), max: String(most), step: isWhole ? "1" : "any" });
    }
    form.addEventListener("input", () => this.#read());
    form.addEventListener("reset", (event) => {
      event.preventDefault();
      this.show(DEFAULTS);
    });
    this.show(keptSampling());
  }

  /** Shows the settings that are in force in a conversation. */
  use(conversation) {
    const isSame = conversation === this.#conversation;
    this.#conversation = conversation;
    if (!isSame) this.show(conversation.sampling ?? this.#own);
  }

  /** Fills the form, and keeps it. */
  show(sampling) {
    for (const name of Object.keys(DEFAULTS)) this.#form.elements[name].value = sampling[name] ?? "";
    this.#read();
  }

  /** The sampling of the next answers; every one of them gets the same seed, drawn where none is set. */
  next({ version = 0 } = {}) {
    const { seed, ...sampling } = this.sampling;
    // another answer at a fixed seed takes the next one, else it would be the same answer
    return { ...sampling, seed: seed === null ? drawSeed() : (seed + version) % SAMPLING_LIMITS.seed[1] };
  }

  #read() {
    const read = { system: this.#form.elements.system.value };
    for (const name of Object.keys(SAMPLING_LIMITS)) {
      const field = this.#form.elements[name];
      // a field that is wrong keeps what it was; the browser says what is wrong with it
      if (field.validity.valid) read[name] = field.value === "" ? null : Number(field.value);
      else read[name] = this.sampling?.[name] ?? DEFAULTS[name];
      field.setAttribute("aria-invalid", String(!field.validity.valid));
    }
    read.temperature ??= DEFAULTS.temperature;
    this.sampling = samplingFrom(read);
    if (this.#conversation?.sampling) this.#conversation.sampling = this.sampling;
    else keepSettings({ sampling: (this.#own = this.sampling) });
    this.#onChange();
  }
}

function keptSampling() {
  try {
    return samplingFrom(loadSettings().sampling ?? DEFAULTS);
  } catch {
    return DEFAULTS;
  }
}

function drawSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0] >>> 1; // 31 bits, as the server takes it
}
