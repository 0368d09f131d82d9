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
  const sorted = Array.from(counts, (chosen, expert) => ({ expert, chosen })).sort((a, b) => b.chosen - a.chosen || a.expert - b.expert);
  setText(title, `Layer ${layer}`);
  const { skew, imbalance } = experts.choices[window];
  setText(summary, `${count(sum)} choices in ${WINDOWS[window] === "ever" ? "all time" : WINDOWS[window]}; ` +
    `the most chosen expert ${times(skew[layer])} the mean, the most loaded worker ${times(imbalance[layer])}`);
  keep(rows, sorted, ({ expert }) => `${layer} ${expert}`, () => drawRow());

  function drawRow() {
    const cells = ["number", "place", "number", "bar", "number", "number"].map((name) => element("td", { class: name }));
    const [expert, where, chosen, bar, share, weight] = cells;
    const swatches = element("span", { class: "swatches" });
    const name = element("span");
    where.append(swatches, name);
    const level = element("i");
    bar.append(level);
    let shown = "";
    return {
      node: element("tr", {}, ...cells),
      update(row) {
        const index = layer * experts.experts + row.expert;
        const holders = experts.holdersOf(index);
        setText(expert, String(row.expert));
        if (shown !== holders.join()) {
          shown = holders.join();
          swatches.replaceChildren(...holders.map((worker) => swatch(worker)));
        }
        setText(name, holdersText(index));
        setText(chosen, count(row.chosen));
        level.style.width = `${most ? (100 * row.chosen) / most : 0}%`;
        level.style.background = holders.length === 1 ? `var(--owner-${holders[0]})` : "";
        setText(share, `${sum ? times((row.chosen * experts.experts) / sum) : "–"}`);
        setText(weight, bytes(experts.bytes(index)));
      },
    };
  }
}

/** A small square in a worker's colour. */
export function swatch(worker) {
  const made = element("i", { class: "swatch" });
  made.style.background = `var(--owner-${worker})`;
  return made;
}

