// What the map of experts tells, worked out of the stream: who holds an expert, how often it is chosen, since when.

import { numbersOf } from "../packed.js";

export const MOVED_SECONDS = 8; // that a move is marked
export const WINDOWS = { recent: "10 s", lately: "5 min", ever: "ever" };

/** The experts of a service, as one message after the other tells of them. */
export class Experts {
  constructor() {
    this.layers = this.experts = this.workers = 0;
    this.movedNow = new Map(); // index -> performance.now() of its move, of those that moved lately
    this.map = null;
  }

  /** Take in a state of the stream. */
  read({ now, service, workers, experts, recent, lately, ever }) {
    [this.layers, this.experts] = experts.holders.shape;
    this.workers = workers.length;
    this.places = workers; // by worker: its host, node and layers
    this.isOnSeveralHosts = workers.some(({ host }) => host !== 0);
    this.active = service.active_experts;
    this.choices = { recent, lately, ever };
    if (this.map === experts) return;
    this.map = experts;
    this.holders = numbersOf(experts.holders);
    this.held = heldBy(this.workers); // by mask
    this.movedAt = new Map(experts.moved.flatMap(({ at, experts: some }) => some.map((index) => [index, at])));
    const moment = performance.now();
    this.movedNow = new Map([...this.movedAt].filter(([, at]) => now - at < MOVED_SECONDS).map(([index, at]) => [index, moment - 1000 * (now - at)]));
  }

  /** The workers that run a layer: those of its host. */
  runnersOf(layer) {
    return this.places.filter(({ first_layer: first, layers }) => first <= layer && layer < first + layers).map(({ worker }) => worker);
  }

  /** The workers that hold an expert whole; none: every worker that runs its layer holds some of its rows. */
  holdersOf(index) {
    return this.held(this.holders[index]);
  }

  /** How often each was chosen in a window. */
  counts(window) {
    return numbersOf(this.choices[window].counts);
  }

  /** The choices that each expert of a layer would get if all were alike. */
  fairShares(window) {
    const counts = this.counts(window);
    return Float64Array.from({ length: this.layers }, (_, layer) => {
      let sum = 0;
      for (let expert = 0; expert < this.experts; expert++) sum += counts[layer * this.experts + expert];
      return sum / this.experts;
    });
  }

  /** Copies of an expert. */
  copies(index) {
    return Math.max(1, this.holdersOf(index).length);
  }

  /** Bytes of all copies of an expert. */
  bytes(index) {
    return this.map.expert_bytes[Math.floor(index / this.experts)] * this.copies(index);
  }

  /** Unix time since when an expert lies where it does. */
  since(index) {
    return this.movedAt.get(index) ?? this.map.placed_at;
  }

  /** The worker that computes most of each layer, -1 where none does more than others. */
  heaviest(window) {
    const counts = this.counts(window);
    return Array.from({ length: this.layers }, (_, layer) => {
      const loads = new Float64Array(this.workers);
      for (let expert = 0; expert < this.experts; expert++) {
        const index = layer * this.experts + expert;
        const holders = this.holdersOf(index);
        for (const worker of holders) loads[worker] += counts[index] / holders.length;
      }
      const own = this.runnersOf(layer).map((worker) => loads[worker]);
      const most = Math.max(...own);
      return most > Math.min(...own) ? loads.indexOf(most) : -1;
    });
  }

  /** Experts that each worker holds whole, of all layers. */
  heldCounts() {
    const counts = new Array(this.workers).fill(0);
    this.holders.forEach((_, index) => {
      for (const worker of this.holdersOf(index)) counts[worker]++;
    });
    return counts;
  }

  /** Whether no expert is held whole. */
  get isByRow() {
    return this.holders.every((mask) => mask === 0);
  }
}

function heldBy(workers) {
  const known = new Map();
  return (mask) => {
    let held = known.get(mask);
    if (!held) {
      held = [];
      for (let worker = 0; worker < workers; worker++) if (Math.floor(mask / 2 ** worker) % 2) held.push(worker);
      known.set(mask, held);
    }
    return held;
  };
}
