// The map as a table (CSV) and as a picture (PNG).

import { isDark } from "../theme.js";

const COLUMNS = ["layer", "expert", "workers", "bytes", "since", "choices_10s", "choices_5min", "choices_ever"];

/** The table: workers are joined by "+", empty where all that run the layer hold rows; times are ISO 8601. */
export function tableOf(experts) {
  const [recent, lately, ever] = ["recent", "lately", "ever"].map((window) => experts.counts(window));
  const lines = Array.from(experts.holders, (_, index) => [
    Math.floor(index / experts.experts), index % experts.experts, experts.holdersOf(index).join("+"), experts.bytes(index),
    new Date(1000 * experts.since(index)).toISOString(), recent[index], lately[index], ever[index],
  ].join(","));
  return [COLUMNS.join(","), ...lines, ""].join("\n");
}

export function saveTable(experts) {
  save(new Blob([tableOf(experts)], { type: "text/csv" }), "csv");
}

/** The map with its labels and bars, on the paper of the page, below a line that says what it shows. */
export function savePicture(canvas, title) {
  const ratio = window.devicePixelRatio || 1;
  const [margin, line] = [16 * ratio, 24 * ratio];
  const paper = document.createElement("canvas");
  paper.width = canvas.width + 2 * margin;
  paper.height = canvas.height + 2 * margin + line;
  const context = paper.getContext("2d");
  const style = getComputedStyle(document.body);
  context.fillStyle = style.backgroundColor || (isDark() ? "black" : "white");
  context.fillRect(0, 0, paper.width, paper.height);
  context.fillStyle = style.color;
  context.font = `${13 * ratio}px ${style.fontFamily}`;
  context.fillText(title, margin, margin + 12 * ratio);
  context.drawImage(canvas, margin, margin + line);
  paper.toBlob((blob) => save(blob, "png"));
}

function save(blob, ending) {
  const address = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = address;
  link.download = `numoe-experts-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
