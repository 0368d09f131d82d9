// Light or dark: as the system says, until somebody chooses here.

const KEY = "numoe theme";
const system = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;
const listeners = [];

/** Whether the page is dark now. */
export const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

/** Calls `listener` now and whenever the theme changes. */
export function onTheme(listener) {
  listeners.push(listener);
  listener();
}

/** Makes a button switch. */
export function bindSwitch(button) {
  button.addEventListener("click", () => choose(isDark() ? "light" : "dark"));
  onTheme(() => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", isDark() ? "Switch to the light theme" : "Switch to the dark theme");
  });
}

function choose(theme) {
  root.dataset.theme = theme;
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // a browser that stores nothing forgets the choice
  }
  tell();
}

function tell() {
  for (const listener of listeners) listener();
}

try {
  const chosen = localStorage.getItem(KEY);
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
} catch {
  // as above
}
system.addEventListener("change", tell);
