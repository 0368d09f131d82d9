// Which colour an expert has in each mode, and what the legend says of it.

import { at, diverging, emptyColour, ownerColour, ownerRamp, sequential, sharedRamp } from "../colours.js";
import { bytes, count } from "../figures.js";

export const MODES = { both: "owner × choices", owner: "owner", choices: "choices", load: "load", bytes: "bytes", copies: "replicas" };
export const USES_WINDOW = new Set(["both", "choices", "load"]);
const DOUBLINGS = 3; // of the fair share that the scale of loads reaches, up and down

/** The place of a number on a scale that ends at `most`: by square root, as choices differ a thousandfold. */
export const placeOfCount = (number, most) => (most > 0 ? Math.sqrt(number / most) : 0);

/** The place of a load over its fair share: 1 is in the middle, 8 at the end, an eighth at the beginning. */
export const placeOfLoad = (load) => 0.5 + Math.log2(load) / (2 * DOUBLINGS);

/**
 * How to paint `experts` (of figures.js) in a mode: {colours, scale, swatches}.
 * `colours(index)` gives pixels, one for each copy of the expert, to be drawn side by side.
 * `scale` is {ramps, labels}: pixel ramps, and texts with their places from 0 to 1.
 */
export function paint(mode, experts, window, isDark) {
  return PAINTERS[mode](experts, window, isDark);
}

const workersOf = (experts) => Array.from({ length: experts.workers }, (_, worker) => worker);
const mostOf = (numbers) => numbers.reduce((most, number) => Math.max(most, number), 0);

function choiceLabels(most) {
  if (!most) return [[0, "0"]];
  return [[0, "0"], [0.5, count(most / 4)], [1, `${count(most)} choices`]];
}

const PAINTERS = {
  both(experts, window, isDark) {
    const counts = experts.counts(window);
    const most = mostOf(counts);
    const shared = sharedRamp(isDark);
    const ramps = workersOf(experts).map((worker) => ownerRamp(worker, isDark));
    return {
      colours(index) {
        const holders = experts.holdersOf(index);
        const place = placeOfCount(counts[index], most);
        return holders.length ? holders.map((worker) => at(ramps[worker], place)) : [at(shared, place)];
      },
      scale: { ramps: experts.isByRow ? [shared] : ramps, labels: choiceLabels(most) },
    };
  },

  owner(experts, window, isDark) {
    const shared = at(sharedRamp(isDark), 0.4);
    const owners = workersOf(experts).map((worker) => ownerColour(worker, isDark));
    return {
      colours(index) {
        const holders = experts.holdersOf(index);
        return holders.length ? holders.map((worker) => owners[worker]) : [shared];
      },
      scale: null,
    };
  },

  choices(experts, window, isDark) {
    const counts = experts.counts(window);
    const most = mostOf(counts);
    const ramp = sequential(isDark);
    const empty = emptyColour(isDark);
    return {
      colours: (index) => [counts[index] ? at(ramp, placeOfCount(counts[index], most)) : empty],
      scale: { ramps: [ramp], labels: choiceLabels(most) },
    };
  },

  load(experts, window, isDark) {
    const counts = experts.counts(window);
    const fair = experts.fairShares(window);
    const ramp = diverging(isDark);
    const empty = emptyColour(isDark);
    return {
      colours(index) {
        const share = fair[Math.floor(index / experts.experts)];
        return [counts[index] ? at(ramp, placeOfLoad(counts[index] / share)) : empty];
      },
      scale: { ramps: [ramp], labels: [[0, "⅛"], [0.5, "fair share"], [1, "8 ×"]] },
    };
  },

  bytes(experts, window, isDark) {
    const most = mostOf(Array.from(experts.holders, (_, index) => experts.bytes(index)));
    const ramp = sequential(isDark);
    return {
      colours: (index) => [at(ramp, most ? experts.bytes(index) / most : 0)],
      scale: { ramps: [ramp], labels: [[0, "0"], [1, bytes(most)]] },
    };
  },

  copies(experts, window, isDark) {
    const ramp = sequential(isDark);
    const most = Math.max(2, experts.workers);
    return {
      colours: (index) => [at(ramp, (experts.copies(index) - 1) / (most - 1))],
      scale: { ramps: [ramp], labels: [[0, "1"], [1, `${most} copies`]] },
    };
  },
};
