// Follows /ops/stream, and knows how old what it told is. It connects again by itself, however the stream ended.
// It is read with fetch, as EventSource sends no key.

import { askForKey, isRefused, shown } from "./key.js";

const STALE_SECONDS = 3;
const SILENT_SECONDS = 8; // a connection that says nothing for so long is given up
const PAUSE_SECONDS = 1; // before it connects again
const LOOK_MILLISECONDS = 250;

/** Calls `onParts(state, names)` with what has changed, and `onAge(seconds, isStale)` four times a second. */
export function follow(address, onParts, onAge) {
  let connection = new AbortController();
  let state = {};
  let isNew = true;
  let isOver = true;
  let isAsking = false; // for a key
  let heardAt = Date.now();
  let triedAt = 0;

  async function connect() {
    connection.abort();
    const mine = (connection = new AbortController());
    triedAt = Date.now();
    isNew = true;
    isOver = false;
    try {
      const reply = await fetch(address, { headers: shown(), signal: mine.signal, cache: "no-store" });
      if (isRefused(reply)) {
        const { error } = await reply.json();
        isAsking = true;
        askForKey(error.message, () => {
          isAsking = false;
          connect();
        });
      } else if (reply.ok) {
        await read(reply.body, hear);
      }
    } catch {
      // The connection broke, or was given up: the next look connects again.
    }
    if (mine === connection) isOver = true;
  }

  function hear(text) {
    const told = JSON.parse(text);
    const names = new Set(Object.keys(told));
    if (isNew) {
      for (const name of Object.keys(state)) names.add(name); // what is not told anew is not so any more
      state = {};
      isNew = false;
    }
    Object.assign(state, told);
    heardAt = Date.now();
    onParts(state, names);
    onAge(0, false);
  }

  function look() {
    const now = Date.now();
    const silent = (now - heardAt) / 1000;
    const tried = (now - triedAt) / 1000;
    const isWanted = isOver ? tried > PAUSE_SECONDS : Math.min(silent, tried) > SILENT_SECONDS;
    if (isWanted && !isAsking) connect();
    onAge(silent, silent > STALE_SECONDS);
  }

  connect();
  setInterval(look, LOOK_MILLISECONDS);
}

/** Calls `hear(text)` with the data of each event, each of which is one line, until the stream ends. */
async function read(body, hear) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) hear(line.slice(6));
  }
}
