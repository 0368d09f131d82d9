// Flow: the last 15 minutes of requests and tokens, as small multiples over one axis of time.

import { element, setText } from "./dom.js";
import { ABSENT, clock, count, percent, short, time } from "./figures.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [360, 60];
const POINTS = 180; // 15 minutes, one in 5 s
const place = document.getElementById("flow-charts");
const when = document.getElementById("flow-when");

const rate = (value) => short(value);
const CHARTS = [
  { name: "decode", unit: "tokens/s", column: "decode_rate", now: (flow) => flow.decode_rate, say: rate },
  { name: "prefill", unit: "tokens/s", column: "prefill_rate", now: (flow) => flow.prefill_rate, say: rate },
  { name: "first token", unit: "", column: "first_token_seconds", now: (flow) => flow.first_token_seconds, say: time },
  { name: "between tokens", unit: "", column: "between_tokens_seconds", now: (flow) => flow.between_tokens_seconds, say: time },
  { name: "running", unit: "requests", column: "running", now: (flow) => flow.running, say: count },
  { name: "queued", unit: "requests", column: "queued", now: (flow) => flow.queued, say: count },
  { name: "rejected", unit: "since the start", column: "rejected", now: (flow) => flow.rejected, say: count, isBars: true },
  { name: "KV blocks", unit: "in use", column: "kv_used", now: (flow) => flow.kv_blocks_used / flow.kv_blocks, say: percent, ceiling: 1 },
];

export const needs = ["flow", "history"];

let charts = [];
let shown; // the newest state
let chosen = null; // a point of the history, counted from its end; null: now

/** Draws the empty charts. */
export function start() {
  charts = CHARTS.map(drawChart);
  place.append(...charts.map(({ node }) => node));
  place.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: 1, ArrowRight: -1 }[event.key];
    if (step === undefined || !shown) return;
    choose(chosen === null ? 0 : chosen + step);
    event.preventDefault();
  });
  place.addEventListener("pointerleave", () => choose(null));
  place.addEventListener("focusout", () => choose(null));
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function drawChart(chart) {
  const figure = element("span", { class: "figure", "data-flow": chart.column });
  const most = element("span", { class: "most" });
  const line = svg("path", { class: chart.isBars ? "bars" : "line", "vector-effect": "non-scaling-stroke" });
  const cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT, "vector-effect": "non-scaling-stroke", visibility: "hidden" });
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT, "vector-effect": "non-scaling-stroke" }), line, cursor);
  const plot = element("div", { class: "plot" }, most, drawing);
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    choose(Math.round((1 - (event.clientX - box.left) / box.width) * (POINTS - 1)));
  });
  const node = element("figure", {}, element("figcaption", {}, element("span", { class: "name", text: chart.name }),
    element("span", { class: "value" }, figure, element("span", { class: "unit", text: chart.unit }))), plot);
  return { ...chart, node, figure, most, line, cursor };
}

function choose(point) {
  if (!shown) return;
  const length = shown.history.running.length;
  chosen = point === null || !length ? null : Math.min(length - 1, Math.max(0, point));
  showValues();
}

export function render(state) {
  shown = state;
  for (const chart of charts) {
    const values = state.history[chart.column];
    const most = chart.ceiling ?? nice(Math.max(0, ...values.filter((value) => value !== null)));
    chart.line.setAttribute("d", chart.isBars ? bars(values, most) : path(values, most));
    setText(chart.most, most ? chart.say(most) : "");
  }
  if (chosen !== null) choose(chosen);
  showValues();
}

function showValues() {
  const { flow, history } = shown;
  const length = history.running.length;
  for (const chart of charts) {
    const value = chosen === null ? chart.now(flow) : history[chart.column][length - 1 - chosen];
    setText(chart.figure, value === null || value === undefined ? "–" : chart.say(value));
    chart.figure.title = value === null ? ABSENT : "";
    chart.cursor.setAttribute("visibility", chosen === null ? "hidden" : "visible");
    const x = placeOf(length - 1 - (chosen ?? 0), length);
    chart.cursor.setAttribute("x1", x);
    chart.cursor.setAttribute("x2", x);
  }
  setText(when, chosen === null ? "now, as of the last 10 s" : `at ${clock(history.until - chosen * history.seconds)}`);
}

const placeOf = (at, length) => (WIDTH * (POINTS - length + at)) / (POINTS - 1);
const heightOf = (value, most) => HEIGHT - (most ? (value / most) * (HEIGHT - 3) : 0);

function path(values, most) {
  let drawn = "";
  let isApart = true;
  values.forEach((value, at) => {
    if (value === null) {
      isApart = true;
      return;
    }
    const point = `${placeOf(at, values.length).toFixed(1)} ${heightOf(value, most).toFixed(1)}`;
    const isAlone = isApart && (values[at + 1] ?? null) === null; // a point by itself is drawn as a dash, to be seen
    drawn += isAlone ? `M${point}m-2 0h4` : isApart ? `M${point}` : `L${point}`;
    isApart = false;
  });
  return drawn;
}

function bars(values, most) {
  return values.map((value, at) =>
    value ? `M${placeOf(at, values.length).toFixed(1)} ${HEIGHT}V${heightOf(value, most).toFixed(1)}` : "").join("");
}

/** The next 1, 2 or 5 times a power of ten. */
function nice(value) {
  if (value <= 0) return 0;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((step) => step * power >= value * (1 - 1e-9));
}
