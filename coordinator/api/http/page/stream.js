// Follows /ops/stream, and knows how old what it told is. It connects again by itself, however the stream ended.

const STALE_SECONDS = 3;
const SILENT_SECONDS = 8; // a connection that says nothing for so long is given up
const LOOK_MILLISECONDS = 250;

/** Calls `onParts(state, names)` with what has changed, and `onAge(seconds, isStale)` four times a second. */
export function follow(address, onParts, onAge) {
  let source;
  let state = {};
  let isNew = true;
  let heardAt = Date.now();
  let triedAt = 0;

  function connect() {
    source?.close();
    triedAt = Date.now();
    isNew = true;
    source = new EventSource(address);
    source.onmessage = (message) => {
      const told = JSON.parse(message.data);
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
    };
    source.onerror = () => {
      isNew = true;
    };
  }

  function look() {
    const now = Date.now();
    const silent = (now - heardAt) / 1000;
    const tried = (now - triedAt) / 1000;
    if ((source.readyState === EventSource.CLOSED && tried > 1) || (silent > SILENT_SECONDS && tried > SILENT_SECONDS)) connect();
    onAge(silent, silent > STALE_SECONDS);
  }

  connect();
  setInterval(look, LOOK_MILLISECONDS);
}
