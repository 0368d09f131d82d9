// The line at the top: what is served, in which state, and whether the page is up to date.

import { drainService } from "./actions.js";
import { setAttribute, setText } from "./dom.js";
import { age } from "./figures.js";
import { bindSwitch } from "./theme.js";

const get = (id) => document.getElementById(id);
const [state, life, model, about] = ["state", "life", "model", "about"].map(get);
const [progress, progressText] = [get("loading").querySelector("progress"), get("loading").querySelector("span")];

export const needs = ["service"];

/** Binds the buttons. */
export function start() {
  bindSwitch(get("theme"));
  get("drain").addEventListener("click", drainService);
}

export function render({ service, now }) {
  setText(model, service.model || "no model yet");
  setAttribute(model, "title", service.model);
  document.title = service.model ? `${service.model} · numoe` : "numoe";
  setText(state, service.state);
  setAttribute(state, "class", `state ${service.state}`);
  const told = [];
  if (service.split && service.experts > 1) told.push(`experts split by ${{ tensor: "row", expert: "expert", mixed: "row or expert" }[service.split] ?? service.split}`);
  if (service.binding) told.push(service.binding);
  told.push(`up ${age(now - service.started_at)}`, `pid ${service.pid}`, `gRPC ${service.grpc}`, `numoe ${service.version}`);
  setText(about, told.join(" · "));
  get("drain").disabled = service.state === "draining" || service.state === "stopped";
  renderLoading(service.loading);
}

function renderLoading(loading) {
  get("loading").hidden = !loading;
  if (!loading) return;
  if (loading.total) {
    progress.max = loading.total;
    progress.value = loading.done;
  } else {
    progress.removeAttribute("value");
  }
  setText(progressText, `${loading.phase}${loading.total ? ` ${percentOf(loading)}` : ""}`);
}

const percentOf = ({ done, total }) => `${Math.floor((100 * done) / total)} %`;

/** Says how old the page is; the page is dimmed while it is stale. */
export function showAge(seconds, isStale) {
  document.documentElement.classList.toggle("stale", isStale);
  setText(life, isStale ? `stale · ${age(seconds)} old` : "live");
}
