// Requests, events, configuration and the doctor's findings.

import { abort } from "./actions.js";
import { element, keep, setText } from "./dom.js";
import { age, clock, count, short } from "./figures.js";

const get = (id) => document.getElementById(id);

function cells(classes) {
  const made = classes.map((name) => element("td", { class: name }));
  return [made, element("tr", {}, ...made)];
}

// ---- requests

export const requests = {
  needs: ["requests", "flow"],
  render({ requests: open, flow }) {
    const more = flow.running + flow.queued - open.length;
    setText(get("requests-summary"), open.length
      ? `${count(flow.running)} running, ${count(flow.queued)} queued${flow.queued ? `, the oldest for ${age(flow.oldest_queued_seconds)}` : ""}${more > 0 ? `; ${count(more)} more are not shown` : ""}`
      : "no open request");
    get("requests-table").hidden = !open.length;
    const seen = new Map();
    const keyed = open.map((request) => {
      const many = (seen.get(request.id) ?? 0) + 1;
      seen.set(request.id, many);
      return { ...request, key: `${many} ${request.id}` };
    });
    keep(get("requests-rows"), keyed, ({ key }) => key, drawRequest);
    const ended = Object.entries(flow.ended).sort(([, a], [, b]) => b - a);
    setText(get("requests-ended"), ended.length ? `Ended since the start: ${ended.map(([how, many]) => `${how.replaceAll("_", " ")} ${count(many)}`).join(", ")}` : "");
  },
};

function drawRequest({ id }) {
  const [[name, client, phase, prompt, tokens, speed, since, act], node] = cells(["id", "client", "phase", "prompt", "number", "number", "number", "act"]);
  const progress = element("progress", { "aria-label": "prompt read" });
  const read = element("span");
  prompt.append(progress, read);
  act.append(element("button", { type: "button", class: "slight", text: "Abort…", "aria-label": `Abort request ${id}`, click: () => abort(id) }));
  return {
    node,
    update(request) {
      setText(name, request.id);
      setText(client, request.client);
      setText(phase, request.phase);
      progress.max = Math.max(1, request.prompt_tokens);
      progress.value = request.prompt_done;
      setText(read, `${count(request.prompt_done)} of ${count(request.prompt_tokens)}`);
      setText(tokens, `${count(request.tokens)} of ${count(request.most_tokens)}`);
      setText(speed, request.rate === null ? "–" : short(request.rate));
      setText(since, age(request.age));
    },
  };
}

// ---- events

const BAD = new Set(["worker_lost", "start_refused", "engine_failed", "keys_refused", "end_forced"]);

export const events = {
  needs: ["events", "now"],
  render({ events: known, now }) {
    setText(get("events-summary"), known.length ? "" : "nothing has happened yet");
    keep(get("events-list"), [...known].reverse(), ({ id }) => id, (event) => drawEvent(event, now));
  },
};

function drawEvent(event, now) {
  const node = element("li", {},
    element("time", { text: clock(event.at, now), datetime: new Date(1000 * event.at).toISOString() }),
    element("b", { text: event.kind.replaceAll("_", " "), class: BAD.has(event.kind) ? "bad" : "" }),
    element("span", { text: event.text }));
  return { node, update() {} };
}

// ---- configuration

export const configuration = {
  needs: ["configuration"],
  render({ configuration: settings }) {
    const chosen = settings.filter(({ origin }) => origin !== "default").length;
    setText(get("configuration-summary"), `${count(chosen)} of ${count(settings.length)} settings chosen, the others are defaults`);
    const groups = [...new Set(settings.map(({ group }) => group))];
    get("configuration-groups").replaceChildren(...groups.map((group) =>
      element("table", {}, element("caption", { text: group }),
        element("thead", { class: "unseen" }, element("tr", {}, ...["setting", "value", "from"].map((text) => element("th", { scope: "col", text })))),
        element("tbody", {}, ...settings.filter((setting) => setting.group === group).map(drawSetting)))));
  },
};

function drawSetting({ name, value, origin }) {
  return element("tr", { class: origin === "default" ? "" : "chosen" },
    element("th", { scope: "row", text: name.replaceAll("_", " ") }),
    element("td", { text: value === "" ? "not set" : value, class: value === "" ? "quiet" : "" }),
    element("td", { text: origin, class: "quiet" }));
}

// ---- doctor

const ORDER = ["problem", "warning", "note", "ok"];

let listed; // what the list is of

export const findings = {
  needs: ["findings", "hosts"],
  render({ findings: found, hosts }) {
    const addresses = hosts.length > 1 ? hosts.map(({ address }) => address) : [];
    if (listed?.found === found && listed.addresses === addresses.join()) return; // hosts change with every look
    listed = { found, addresses: addresses.join() };
    const alike = new Map(); // what is found on several hosts is told once
    for (const { host, ...one } of found) {
      const key = JSON.stringify(one);
      alike.set(key, { ...one, hosts: [...(alike.get(key)?.hosts ?? []), addresses[host]] });
    }
    const sorted = [...alike.values()].sort((a, b) => ORDER.indexOf(a.level) - ORDER.indexOf(b.level));
    const counted = ORDER.map((level) => [level, sorted.filter((one) => one.level === level).length]).filter(([, many]) => many);
    setText(get("doctor-summary"), counted.map(([level, many]) => `${many} ${level}`).join(", "));
    const where = (some) => (some.length === hosts.length ? "all hosts" : some.join(", "));
    get("doctor-list").replaceChildren(...sorted.map((one) => drawFinding(one, hosts.length > 1 ? where(one.hosts) : "")));
  },
};

function drawFinding({ level, subject, found, cost, remedy }, where) {
  return element("li", {}, element("b", { text: level, class: `level-${level}` }),
    element("div", {}, ...(where ? [element("span", { class: "where", text: where })] : []),
      element("span", { class: "subject", text: subject }), element("span", { text: found }),
      ...(cost ? [element("p", { class: "note", text: `Cost: ${cost}` })] : []),
      ...(remedy ? [element("p", { class: "note" }, "Mend: ", element("code", { text: remedy }))] : [])));
}

