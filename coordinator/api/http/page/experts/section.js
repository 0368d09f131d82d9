// Experts: the map with its controls, legend, margins, the expert that is pointed at, and the layer that is chosen.

import { rebalance } from "../actions.js";
import { css, declareOwners } from "../colours.js";
import { element, keep, setAttribute, setText } from "../dom.js";
import { age, bytes, clock, count, layerRange, percent, times } from "../figures.js";
import { isDark, onTheme } from "../theme.js";
import { savePicture, saveTable } from "./export.js";
import { Experts, MOVED_SECONDS, WINDOWS } from "./figures.js";
import { showLayer, swatch } from "./layer.js";
import { MapDrawing } from "./map.js";
import { MODES, paint, USES_WINDOW } from "./painting.js";

const get = (id) => document.getElementById(id);
const frame = get("map");
const [said, readout] = [get("expert-said"), get("expert-told")];
const [layerField, expertField] = [get("expert-layer"), get("expert-expert")];
const drawing = new MapDrawing(frame);
export const experts = new Experts();
const AND = new Intl.ListFormat("en-GB"); // 0, 1 and 2
const SAY_MILLISECONDS = 200; // after the last step of a pointer or a key

export const needs = ["service", "hosts", "workers", "experts", "recent", "lately", "ever"];

let mode = "both";
let window_ = "recent";
let state;
let saying;

/** Binds controls, pointer and keys. */
export function start() {
  choices(get("map-modes"), "mode", MODES, mode, (chosen) => ((mode = chosen), draw()));
  choices(get("map-windows"), "window", WINDOWS, window_, (chosen) => ((window_ = chosen), draw()));
  get("rebalance").addEventListener("click", rebalance);
  get("save-csv").addEventListener("click", () => saveTable(experts));
  get("save-png").addEventListener("click", () => savePicture(drawing.base, pictureTitle()));
  get("layer-close").addEventListener("click", () => chooseLayer(null));
  get("layer").addEventListener("keydown", (event) => event.key === "Escape" && chooseLayer(null));
  frame.addEventListener("pointermove", (event) => point(drawing.g && drawing.cellAt(event)));
  frame.addEventListener("click", (event) => {
    const cell = drawing.g && drawing.cellAt(event);
    if (cell) chooseLayer(cell.layer === drawing.layer ? null : cell.layer);
  });
  frame.addEventListener("keydown", onKey);
  frame.addEventListener("focus", () => point(drawing.cursor ?? { layer: 0, expert: 0 }));
  for (const field of [layerField, expertField]) field.addEventListener("input", () => moveTo(layerField.valueAsNumber, expertField.valueAsNumber));
  new ResizeObserver(draw).observe(frame);
  matchMedia(`(resolution: ${window.devicePixelRatio}dppx)`).addEventListener("change", draw);
  onTheme(draw);
}

function choices(place, name, options, chosen, choose) {
  for (const [value, text] of Object.entries(options)) {
    const input = element("input", { type: "radio", name, value, checked: value === chosen, change: () => choose(value) });
    place.append(element("label", {}, input, element("span", { text })));
  }
}

export function render(now) {
  state = now;
  const isDense = now.service.experts <= 1;
  for (const id of ["experts-body", "experts-actions"]) get(id).hidden = isDense;
  setText(get("experts-summary"), isDense ? "none: the model is dense" : summary(now));
  if (isDense) return;
  experts.read(now);
  layerField.max = experts.layers - 1;
  expertField.max = experts.experts - 1;
  get("rebalance").disabled = Boolean(now.service.rebalance) || experts.isByRow || experts.isOnSeveralHosts || now.service.state !== "serving";
  renderMoves(now.service.rebalance);
  draw();
}

function summary({ service }) {
  return `${count(service.layers * service.experts)} in ${count(service.layers)} layers, ${service.active_experts} of ${service.experts} chosen for each token`;
}

function renderMoves(progress) {
  get("moves").hidden = !progress;
  get("experts-summary").hidden = Boolean(progress); // in its place, so that nothing below moves
  if (!progress) return;
  get("moves").querySelector("progress").max = progress.total;
  get("moves").querySelector("progress").value = progress.done;
  setText(get("moves").querySelector("span"), `${count(progress.done)} of ${count(progress.total)} experts moved, to ${progress.phase}; framed: in the last ${MOVED_SECONDS} s`);
}

function draw() {
  if (!state || !experts.map || !frame.clientWidth) return;
  declareOwners(experts.workers, isDark());
  const painter = paint(mode, experts, window_, isDark());
  const imbalance = experts.choices[window_].imbalance;
  drawing.draw(experts, painter, { values: imbalance, owners: experts.heaviest(window_), most: Math.max(1.1, ...imbalance) });
  get("map-windows").disabled = false;
  renderScale(painter.scale);
  renderShares();
  tellExpert();
  showLayer(experts, drawing.layer, window_, holdersText);
  setAttribute(frame, "aria-label", `Map of ${count(experts.layers)} layers of ${count(experts.experts)} experts, coloured by ${MODES[mode]}. Arrow keys move, Enter lists a layer.`);
}

function renderScale(scale) {
  get("scale").hidden = !scale;
  if (!scale) return;
  const canvas = get("scale").querySelector("canvas");
  const height = 10;
  [canvas.width, canvas.height] = [scale.ramps[0].length, height];
  const context = canvas.getContext("2d");
  scale.ramps.forEach((ramp, row) => {
    const [from, to] = [row, row + 1].map((at) => Math.round((at * height) / scale.ramps.length));
    ramp.forEach((colour, x) => {
      context.fillStyle = css(colour);
      context.fillRect(x, from, 1, to - from);
    });
  });
  keep(get("scale-labels"), scale.labels, ([place]) => place, ([place]) => {
    const node = element("span");
    node.style.left = `${100 * place}%`;
    setAttribute(node, "class", place === 0 ? "first" : place === 1 ? "last" : "");
    return { node, update: ([, text]) => setText(node, text) };
  });
}

/** How much of all choices each worker computes: a bar, and its legend. */
function renderShares() {
  const { shares } = experts.choices[window_];
  const isChosen = shares.some((share) => share > 0);
  const held = experts.heldCounts().map((many, worker) => (experts.isByRow ? rowsText(experts.places[worker]) : `${count(many)} experts`));
  const items = shares.map((share, worker) => ({ worker, share: isChosen ? share : null, held: held[worker] }));
  get("shares-bar").classList.toggle("unknown", !isChosen);
  keep(get("shares-bar"), items, ({ worker }) => worker, drawShare);
  keep(get("shares-legend"), items, ({ worker }) => worker, drawLegend);
}

const rowsText = ({ first_layer: first, layers }) => (experts.isOnSeveralHosts ? `rows of ${layerRange(first, layers)}` : "rows of every expert");

function drawShare({ worker }) {
  const node = element("i");
  node.style.background = `var(--owner-${worker})`;
  return { node, update: ({ share }) => (node.style.flexGrow = share ?? 1) };
}

function drawLegend({ worker }) {
  const told = element("b");
  const holds = element("span", { class: "quiet" });
  return {
    node: element("li", {}, swatch(worker), `worker ${worker} `, told, holds),
    update({ share, held }) {
      setText(told, share === null ? "–" : percent(share, 1));
      setText(holds, held);
    },
  };
}

// ---- one expert

function point(cell) {
  if (!cell || !experts.map) return;
  moveTo(cell.layer, cell.expert < 0 ? (drawing.cursor?.expert ?? 0) : cell.expert);
}

function moveTo(layer, expert) {
  if (!experts.map || !Number.isInteger(layer) || !Number.isInteger(expert)) return;
  const within = (value, most) => Math.min(most - 1, Math.max(0, value));
  const cell = { layer: within(layer, experts.layers), expert: within(expert, experts.experts) };
  if (cell.layer === drawing.cursor?.layer && cell.expert === drawing.cursor?.expert) return;
  drawing.cursor = cell;
  drawing.drawOver();
  tellExpert();
  clearTimeout(saying);
  saying = setTimeout(() => setText(said, describe()), SAY_MILLISECONDS);
}

const STEPS = {
  ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
  PageUp: [-10, 0], PageDown: [10, 0], Home: [0, -Infinity], End: [0, Infinity],
};

function onKey(event) {
  const step = STEPS[event.key];
  if (step) {
    const { layer, expert } = drawing.cursor ?? { layer: 0, expert: 0 };
    const far = event.shiftKey ? 8 : 1;
    const column = Number.isFinite(step[1]) ? expert + far * step[1] : step[1] < 0 ? 0 : experts.experts - 1;
    moveTo(layer + far * step[0], column);
  } else if ((event.key === "Enter" || event.key === " ") && drawing.cursor) {
    chooseLayer(drawing.cursor.layer);
    get("layer-close").focus();
  } else if (event.key === "Escape") {
    chooseLayer(null);
  } else {
    return;
  }
  event.preventDefault();
}

function chooseLayer(layer) {
  const wasInside = get("layer").contains(document.activeElement);
  drawing.layer = layer;
  if (experts.map) draw();
  if (layer === null && wasInside) frame.focus();
}

const several = (noun, names) => `${noun}${names.length > 1 ? "s" : ""} ${AND.format(names.map(String))}`;

const runnersOf = (index) => experts.runnersOf(Math.floor(index / experts.experts));

const holdersText = (index) => {
  const holders = experts.holdersOf(index);
  if (holders.length) return several("worker", holders);
  return experts.isOnSeveralHosts ? `rows on ${several("worker", runnersOf(index))}` : "rows on every worker";
};

const nodesText = (index) => {
  const holders = experts.holdersOf(index);
  const places = (holders.length ? holders : runnersOf(index)).map((worker) => experts.places[worker]);
  const nodes = several("node", [...new Set(places.map(({ node }) => node))]);
  return experts.isOnSeveralHosts && places.length ? `${nodes} of ${state.hosts[places[0].host].address}` : nodes;
};

function tellExpert() {
  const index = drawing.cursor && drawing.cursor.layer * experts.experts + drawing.cursor.expert;
  readout.hidden = index === null || index === undefined;
  get("expert-hint").hidden = !readout.hidden;
  if (readout.hidden) return;
  if (document.activeElement !== layerField) layerField.value = drawing.cursor.layer;
  if (document.activeElement !== expertField) expertField.value = drawing.cursor.expert;
  const facts = factsOf(index);
  keep(readout, facts, ([name]) => name, ([name]) => {
    const value = element("dd", { "data-expert": name });
    return { node: element("div", {}, element("dt", { text: name }), value), update: ([, text]) => setText(value, text) };
  });
}

function factsOf(index) {
  const fair = experts.fairShares(window_)[Math.floor(index / experts.experts)];
  const [recent, lately, ever] = Object.keys(WINDOWS).map((window) => count(experts.counts(window)[index]));
  return [
    ["lives on", `${holdersText(index)}, ${nodesText(index)}`],
    ["since", `${clock(experts.since(index), state.now)} (${age(state.now - experts.since(index))})`],
    ["size", bytes(experts.bytes(index))],
    ["of its fair share", fair ? times(experts.counts(window_)[index] / fair) : "–"],
    ["chosen in 10 s", recent],
    ["in 5 min", lately],
    ["ever", ever],
  ];
}

function describe() {
  const { layer, expert } = drawing.cursor;
  const facts = factsOf(layer * experts.experts + expert);
  return `Layer ${layer}, expert ${expert}: ${facts.map(([name, value]) => `${name} ${value}`).join("; ")}.`;
}

function pictureTitle() {
  const over = USES_WINDOW.has(mode) ? `, ${WINDOWS[window_]}` : "";
  return `${state.service.model}: ${MODES[mode]}${over}, ${new Date(1000 * state.now).toISOString().slice(0, 19)}Z`;
}
