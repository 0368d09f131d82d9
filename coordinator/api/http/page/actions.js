// What an operator may do: asked once more, sent, and what came of it told.

import { element, setText } from "./dom.js";
import { askForKey, isRefused, shown } from "./key.js";

const dialog = document.getElementById("confirm");
const [title, text] = [dialog.querySelector("h2"), dialog.querySelector("p")];
const [cancel, proceed] = dialog.querySelectorAll("button");
const notice = document.getElementById("notice");
let accepted = () => {};

cancel.addEventListener("click", () => dialog.close());
proceed.addEventListener("click", () => {
  dialog.close();
  accepted();
});

/**
 * Asks, posts `order` to the action, and says what came of it.
 * `action`: {name, title, text, verb, done: (answer) => text}
 */
export function ask(action, order) {
  setText(title, action.title);
  setText(text, action.text);
  setText(proceed, action.verb);
  accepted = () => send(action, order);
  dialog.showModal();
  cancel.focus();
}

async function send(action, order) {
  tell(`${action.title} …`);
  try {
    const reply = await fetch(`actions/${action.name}`, {
      method: "POST",
      headers: { "content-type": "application/json", ...shown() },
      body: JSON.stringify(order),
    });
    const answer = await reply.json();
    if (reply.ok) tell(action.done(answer));
    else if (isRefused(reply)) askForKey(answer.error.message, () => send(action, order));
    else tell(`Refused: ${answer.error?.message ?? reply.status}`, true);
  } catch (error) {
    tell(`Not sent: the service does not answer (${error.message})`, true);
  }
}

/** Says something at the foot of the page, until it is read. */
export function tell(said, isBad = false) {
  const close = element("button", { type: "button", text: "Close", click: () => notice.replaceChildren() });
  notice.replaceChildren(element("p", { text: said, class: isBad ? "bad" : "" }), close);
}

const plural = (number, noun) => `${number.toLocaleString("en-US")} ${noun}${number === 1 ? "" : "s"}`;

export const abort = (id) =>
  ask(
    {
      name: "abort",
      title: "Abort a request",
      text: `Request ${id} ends at once; its client is told that it was cancelled.`,
      verb: "Abort the request",
      done: ({ aborted }) => (aborted ? `${plural(aborted, "request")} aborted: ${id}` : `Request ${id} had ended already.`),
    },
    { request_id: id },
  );

const moving = ({ moves }) => (moves ? `${plural(moves, "expert")} will move.` : "The experts lie well as they are.");

export const rebalance = () =>
  ask(
    {
      name: "rebalance",
      title: "Rebalance experts",
      text: "Experts move between workers until all compute equally much, by what was chosen so far. Requests go on, and no answer changes.",
      verb: "Rebalance",
      done: moving,
    },
    {},
  );

export const drainWorker = (worker) =>
  ask(
    {
      name: "drain-worker",
      title: `Drain worker ${worker}`,
      text: `All whole experts of worker ${worker} move to the others. Requests go on, slower as the others compute more.`,
      verb: `Drain worker ${worker}`,
      done: moving,
    },
    { worker },
  );

export const drainService = () =>
  ask(
    {
      name: "drain-service",
      title: "Drain the service",
      text: "No more requests are taken. The process ends once the open ones are done, or their time is over.",
      verb: "Drain and end",
      done: ({ open }) => `Draining: ${plural(open, "request")} still open.`,
    },
    {},
  );
