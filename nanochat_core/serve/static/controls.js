// The settings: how the next answer is sampled, and the system prompt.
//
// Every field is checked against the same limits as a link or a file (record.js). A blank field is off, or left to the
// server; a blank seed is drawn anew for each answer and stands under it, so that any answer can be made again.

import { samplingFrom, SAMPLING_LIMITS } from "./record.js";
import { keepSettings, loadSettings } from "./store.js";

const DEFAULTS = { temperature: 0.6, top_k: 50, top_p: null, max_tokens: null, seed: null, system: "" };

export class Controls {
  #form;

  constructor(form) {
    this.#form = form;
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
    keepSettings({ sampling: this.sampling });
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
