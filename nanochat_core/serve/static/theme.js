// Light, dark, or as the system has it. Runs before the first paint (blocking="render"), so that nothing flashes.

import { keepSettings, loadSettings } from "./store.js";

const ORDER = ["system", "light", "dark"];
export const THEME_ICONS = { system: "system", light: "sun", dark: "moon" };

/** The chosen theme. */
export function theme() {
  const { theme: kept } = loadSettings();
  return ORDER.includes(kept) ? kept : "system";
}

/** Goes on to the next theme, and gives it. */
export function nextTheme() {
  const chosen = ORDER[(ORDER.indexOf(theme()) + 1) % ORDER.length];
  keepSettings({ theme: chosen });
  applyTheme();
  return chosen;
}

function applyTheme() {
  const chosen = theme();
  if (chosen === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
}

applyTheme();
