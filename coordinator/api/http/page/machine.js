// Machine: hosts, sockets and NUMA nodes as rooms with their memory, and in each the workers that are bound to it.

import { drainWorker } from "./actions.js";
import { declareOwners } from "./colours.js";
import { element, facts, setAttribute, setText } from "./dom.js";
import { ABSENT, age, bandwidth, bytes, count, layerRange, percent, short, time } from "./figures.js";
import { isDark } from "./theme.js";

const place = document.getElementById("machine-rooms");
const summary = document.getElementById("machine-summary");
const PARTS = [
  ["weight_bytes", "weights"],
  ["kv_bytes", "KV cache"],
  ["arena_bytes", "arena"],
  ["other_bytes", "other"],
  ["page_cache_bytes", "page cache"],
  ["free_bytes", "free"],
];

const RECENT_SECONDS = 300; // that a restart is news

const UNKNOWN = "–";
const LONG_STEP_SECONDS = 2; // of a step that is told of while it runs
const SILENT_SECONDS = 15; // of a host that tells of its machine every 5

export const needs = ["hosts", "workers", "service", "flow", "now"];

let drawn = "";
let updates = [];

export function render({ hosts, workers, service, flow, now }) {
  const plan = JSON.stringify([hosts.map((host) => [host.name, host.address, host.processor, host.nodes.map((node) => [node.node, node.package])]),
    workers.map((worker) => [worker.worker, worker.host, worker.node, worker.first_layer, worker.layers]), service.experts <= 1]);
  if (plan !== drawn) {
    drawn = plan;
    updates = [];
    place.replaceChildren(...hosts.map((host, index) => drawHost(host, index, workers, hosts.length > 1)));
    place.classList.toggle("beside", hosts.length > 1 && hosts.every((host) => packagesOf(host).length < 2));
    document.getElementById("overview").classList.toggle("many", workers.length > 4 || hosts.length > 1 || service.experts <= 1);
  }
  for (const update of updates) update(hosts, workers, service, flow, now);
  const ready = workers.filter((worker) => worker.state === "ready").length;
  const where = hosts.length > 1 ? ` on ${hosts.length} hosts` : "";
  setText(summary, [`${ready} of ${workers.length} workers ready${where}`, ...longStep(flow)].join(" · "));
  declareOwners(workers.length, isDark());
}

function drawHost(host, index, workers, isOneOfMany) {
  const note = element("p", { class: "note" });
  const state = element("span", { class: "state" });
  const silence = element("span", { class: "bad" });
  updates.push((hosts, workers, service, flow, now) => {
    const told = hosts[index];
    setText(note, `Peak of memory: ${told.peak_source || ABSENT} · transparent huge pages: ${told.transparent_huge_pages || ABSENT}`);
    const word = stateOfHost(workers.filter((worker) => worker.host === index));
    state.hidden = !word;
    setText(state, word);
    setAttribute(state, "class", `state ${word}`);
    const silent = now - told.told_at;
    setText(silence, silent >= SILENT_SECONDS ? `memory as of ${age(silent)} ago` : "");
  });
  const title = isOneOfMany
    ? [element("span", { text: host.name }), element("span", { text: host.address }), element("span", { class: "quiet", text: layersOf(workers.filter((worker) => worker.host === index)) })]
    : [element("span", { text: host.name })];
  return element("div", { class: "host", "data-host": index },
    element("h3", {}, ...title, element("span", { class: "quiet", text: host.processor }), state, silence),
    ...packagesOf(host).map((socket) => drawSocket(socket, host, index, workers)), note);
}

const packagesOf = (host) => [...new Set(host.nodes.map((node) => node.package))];

/** What all workers of a host are, where that is bad; "" else. */
function stateOfHost(workers) {
  return ["lost", "stuck"].find((word) => workers.length && workers.every(({ state }) => state === word)) ?? "";
}

function layersOf([worker]) {
  return worker ? layerRange(worker.first_layer, worker.layers) : "no layers";
}

function drawSocket(socket, host, index, workers) {
  const rooms = host.nodes.filter((node) => node.package === socket).map((node) => drawRoom(node, index, workers));
  const name = socket === null ? "socket not told" : `socket ${socket}`;
  return element("div", { class: "socket" }, element("h4", { text: name }), element("div", { class: "rooms" }, ...rooms));
}

function drawRoom(node, hostIndex, workers) {
  const cpus = element("span", { class: "quiet" });
  const bar = element("div", { class: "memory", role: "img" });
  const segments = PARTS.map(([, name]) => element("i", { class: name.replace(" ", "-") }));
  bar.append(...segments);
  const values = PARTS.map(() => element("dd"));
  const legend = element("dl", { class: "legend" }, ...PARTS.map(([, name], at) =>
    element("div", {}, element("dt", {}, element("i", { class: name.replace(" ", "-") }), name), values[at])));
  const huge = element("p", { class: "note" });
  updates.push((hosts) => {
    const now = hosts[hostIndex].nodes.find((one) => one.node === node.node);
    setText(cpus, `CPUs ${now.cpus || "none"} · ${bytes(now.total_bytes)} · peak ${bandwidth(now.peak || null)}`);
    PARTS.forEach(([field], at) => {
      segments[at].style.flexGrow = now[field];
      setText(values[at], bytes(now[field]));
    });
    setAttribute(bar, "aria-label", `Memory of node ${now.node}: ${PARTS.map(([field, name]) => `${name} ${bytes(now[field])}`).join(", ")}`);
    setText(huge, `Huge pages: ${bytes(now.transparent_huge_bytes)} transparent, ${now.huge_bytes ? `${bytes(now.huge_bytes - now.huge_free_bytes)} of ${bytes(now.huge_bytes)}` : "none"} reserved`);
  });
  const here = workers.filter((worker) => worker.host === hostIndex && worker.node === node.node).map(drawWorker);
  return element("section", { class: "room", "aria-label": `node ${node.node}` },
    element("h5", {}, `node ${node.node} `, cpus), bar, legend, huge,
    ...(here.length ? [element("div", { class: "workers" }, ...here)] : [element("p", { class: "note", text: "No worker is bound to this node." })]));
}

const FACTS = [
  ["step", (worker) => time(worker.step_seconds)],
  ["of it waiting", (worker) => percent(worker.wait_share)],
  ["busy", ({ state, fill, busy }, now, flow) => (state === "ready" && (fill !== null || !flow.running) ? percent(busy) : ABSENT)],
  ["heartbeat", (worker) => (worker.seen_ago === null ? ABSENT : `${worker.seen_ago.toFixed(1)} s ago`)],
  ["on node", (worker) => bytes(worker.on_node_bytes)],
  ["off node", (worker) => bytes(worker.off_node_bytes), (worker) => worker.off_node_bytes > 0],
  ["weights", (worker) => bytes(worker.weight_bytes)],
  ["KV in use", (worker) => kvInUse(worker)],
  ["CPUs", (worker) => worker.cpus || "none"],
  ["threads off them", (worker) => threadsOff(worker), (worker) => worker.threads_off > 0],
  ["pid", (worker) => (worker.pid === null ? "none" : String(worker.pid))],
  ["restarts", restarts, (worker, now) => worker.restarts > 0 && now - worker.ready_at < RECENT_SECONDS],
];

function restarts({ restarts: many, ready_at: at }, now) {
  return many && at !== null ? `${count(many)}, ${age(now - at)} ago` : count(many);
}

function kvInUse({ kv_used_bytes: used, kv_bytes: all }) {
  return used === null || !all ? ABSENT : `${percent(used / all)} of ${bytes(all)}`;
}

function threadsOff({ threads_off: off, process_threads: all }) {
  return off === null ? ABSENT : `${count(off)} of ${count(all)}`;
}

function drawWorker({ worker: number }) {
  const state = element("span", { class: "state" });
  const fill = element("span", { class: "figure" });
  const unit = element("span", { class: "unit" });
  const read = element("span", { class: "quiet" });
  const level = element("i");
  const values = FACTS.map(([name]) => element("dd", { "data-fact": name }));
  const problem = element("p", { class: "problem" });
  const drain = element("button", { type: "button", class: "slight", text: "Drain…", "aria-label": `Drain worker ${number} of its experts`, click: () => drainWorker(number) });
  const card = element("article", { class: "worker", "data-worker": number, "aria-label": `worker ${number}` },
    element("header", {}, element("h6", { text: `worker ${number}` }), state, drain),
    element("p", { class: "fill", title: "Bytes of weights read per second within steps, of what its share of the node reads at most" }, fill, unit, read),
    element("div", { class: "level", "aria-hidden": "true" }, level),
    facts(FACTS.map(([name], at) => [name, values[at]])), problem);
  card.style.setProperty("--owner", `var(--owner-${number})`);
  updates.push((hosts, workers, service, flow, now) => {
    const known = workers.find((one) => one.worker === number);
    setText(state, stateOf(known));
    setAttribute(state, "class", `state ${known.state}`);
    setText(fill, known.fill === null ? whyNoStep(known, flow) : short(100 * known.fill));
    fill.classList.toggle("none", known.fill === null);
    setText(unit, known.fill === null ? "" : "% fill");
    setText(read, known.fill === null ? "" : `${bandwidth(known.read_rate)} of ${bandwidth(known.peak || null)}`);
    level.style.width = `${Math.min(100, 100 * (known.fill ?? 0))}%`;
    FACTS.forEach(([, say, isBad], at) => {
      const said = say(known, now, flow);
      setText(values[at], said === ABSENT ? UNKNOWN : said); // there is no room for more
      setAttribute(values[at], "title", said === ABSENT ? ABSENT : "");
      values[at].classList.toggle("bad", Boolean(isBad?.(known, now)));
    });
    setText(problem, known.problem);
    drain.hidden = !canDrain(service, workers);
  });
  return card;
}

/** Why no step has ended lately: there is nothing to do, or one takes long. */
function whyNoStep({ state }, flow) {
  if (state !== "ready") return UNKNOWN;
  if (!flow.running && !flow.queued) return "idle, no request";
  return longStep(flow)[0] ?? "no step in the last 10 s";
}

function longStep({ step_age: seconds }) {
  return seconds !== null && seconds >= LONG_STEP_SECONDS ? [`step running for ${age(seconds)}`] : [];
}

const canDrain = (service, workers) =>
  workers.length > 1 && service.experts > 1 && service.split !== "tensor" && workers.every(({ host }) => host === 0);

function stateOf({ state, loaded_bytes: done, to_load_bytes: total }) {
  return state === "loading" && total ? `loading ${Math.floor((100 * done) / total)} %` : state;
}

