// Starts the page: the stream tells parts, and each section is drawn when a part that it shows has changed.

import * as experts from "./experts/section.js";
import * as flow from "./flow.js";
import * as header from "./header.js";
import * as machine from "./machine.js";
import { follow } from "./stream.js";
import { configuration, events, findings, requests } from "./tables.js";

const SECTIONS = [
  [null, header],
  ["machine", machine],
  ["experts", experts],
  ["flow", flow],
  ["requests", requests],
  ["events", events],
  ["configuration", configuration],
  ["doctor", findings],
];

let state = {};
const changed = new Set();
let isAsked = false;

function draw() {
  isAsked = false;
  for (const [id, section] of SECTIONS) {
    const isKnown = section.needs.every((name) => state[name] !== undefined);
    if (id) document.getElementById(id).classList.toggle("absent", !isKnown);
    if (isKnown && section.needs.some((name) => changed.has(name))) section.render(state);
  }
  changed.clear();
}

for (const [, section] of SECTIONS) section.start?.();
follow(
  "stream",
  (now, names) => {
    state = now;
    for (const name of names) changed.add(name);
    if (!isAsked) requestAnimationFrame(draw);
    isAsked = true;
  },
  header.showAge,
);
