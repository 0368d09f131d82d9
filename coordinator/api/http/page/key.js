// The key of whoever looks at the page, where the service asks for one: kept by this tab alone, until it is closed.

import { setText } from "./dom.js";

const NAME = "numoe-key";
const dialog = document.getElementById("key");
const [form, why, input] = [dialog.querySelector("form"), dialog.querySelector("p"), dialog.querySelector("input")];
let waiting = [];

form.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(NAME, input.value.trim());
  input.value = "";
  dialog.close();
  const those = waiting;
  waiting = [];
  for (const goOn of those) goOn();
});

/** The headers that show the key; none as long as there is none. */
export function shown() {
  const key = sessionStorage.getItem(NAME);
  return key ? { authorization: `Bearer ${key}` } : {};
}

/** Whether an answer says that the key is missing or not enough. */
export const isRefused = (reply) => reply.headers.has("www-authenticate");

/** Asks for another key, saying why; `goOn` is called when it is given. */
export function askForKey(text, goOn) {
  waiting.push(goOn);
  setText(why, text);
  if (!dialog.open) dialog.showModal();
}
