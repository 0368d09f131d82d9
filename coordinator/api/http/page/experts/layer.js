// The experts of one layer, sorted by how often they are chosen.

import { element, keep, setText } from "../dom.js";
import { bytes, count, times } from "../figures.js";
import { WINDOWS } from "./figures.js";

const get = (id) => document.getElementById(id);
const [place, title, rows, summary] = ["layer", "layer-title", "layer-rows", "layer-summary"].map(get);

/** Shows a layer of `experts`, or nothing where it is null. */
export function showLayer(experts, layer, window, holdersText) {
  place.hidden = layer === null;
  if (layer === null) return;
  const counts = experts.counts(window).subarray(layer * experts.experts, (layer + 1) * experts.experts);
  const sum = counts.reduce((all, some) => all + some, 0);
  const most = counts.reduce((largest, some) => Math.max(largest, some), 0);
  const sorted = Array.from(counts, (chosen, expert) => {
    const index = layer * experts.experts + expert;
    const [share, load] = [most ? chosen / most : 0, sum ? (chosen * experts.experts) / sum : null];
    return { expert, chosen, share, load, holders: experts.holdersOf(index), where: holdersText(index), bytes: experts.bytes(index) };
  }).sort((a, b) => b.chosen - a.chosen || a.expert - b.expert);
  setText(title, `Layer ${layer}`);
  const { skew, imbalance } = experts.choices[window];
  setText(summary, `${count(sum)} choices${window === "ever" ? " since the workers started" : ` in ${WINDOWS[window]}`}; ` +
    `the most chosen expert has ${times(skew[layer])} the mean, the most loaded worker ${times(imbalance[layer])}`);
  keep(rows, sorted, ({ expert }) => expert, drawRow);
}

function drawRow() {
  const cells = ["number", "place", "number", "bar", "number", "number"].map((name) => element("td", { class: name }));
  const [expert, where, chosen, bar, load, weight] = cells;
  const swatches = element("span");
  const name = element("span");
  where.append(swatches, name);
  const level = element("i");
  bar.append(level);
  let shown;
  return {
    node: element("tr", {}, ...cells),
    update(row) {
      setText(expert, String(row.expert));
      if (shown !== row.holders.join()) {
        shown = row.holders.join();
        swatches.replaceChildren(...row.holders.map(swatch));
        level.style.background = row.holders.length === 1 ? `var(--owner-${row.holders[0]})` : "";
      }
      setText(name, row.where);
      setText(chosen, count(row.chosen));
      level.style.width = `${100 * row.share}%`;
      setText(load, row.load === null ? "–" : times(row.load));
      setText(weight, bytes(row.bytes));
    },
  };
}

/** A small square in a worker's colour. */
export function swatch(worker) {
  const made = element("i", { class: "swatch" });
  made.style.background = `var(--owner-${worker})`;
  return made;
}

