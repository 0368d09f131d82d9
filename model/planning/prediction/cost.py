"""Predicts a step's time from what each worker must read and compute, and at which gathers the workers wait.

    per layer     q, k, v | kv cache  gather  output projection  gather  router | gate, up  gather*  down  gather
    per step      ... layers | output  gather  draw

Between two gathers a worker needs the time of its bytes at its share of its node's bandwidth, or of its operations at
its cores' peak, whichever is longer, and a part of the other; the slowest worker counts. (*) Where workers hold whole
experts, they gather after down instead; which worker is slowest then depends on what the router chose: steps are drawn
(routing.py).

*Not counted*: what caches keep from one step to the next, prompts' attention beyond its reading, that workers share the
routing of many tokens, and what other programs take.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from numoe.model.architectures.spec import LayerTensors, ModelSpec
from numoe.model.gguf.kv_types import HALF_FLOATS, KvTypes
from numoe.model.gguf.tensors import TensorType
from numoe.model.machine.topology import Topology
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.expert_stats import ExpertStats
from numoe.model.planning.plan import Shard, ShardPlan
from numoe.model.planning.prediction.forecast import ExpertSeconds, Forecast, Seconds
from numoe.model.planning.prediction.routing import Counts, assign, draw_steps, holders_of
from numoe.model.planning.prediction.speeds import FLOATS_SHARE, Speeds
from numoe.model.planning.prediction.worker_rates import WorkerRates, rates_of

STEP_GATHERS = 4  # of all workers, beside those of layers: two while embedding, after the logits, after drawing
CHOICE_SECONDS = 1.0e-9  # per expert and rank, by one thread: the router's choice compares all experts A times
# Per token id, by one thread. Of 151,936 on a Zen 3 core: 0.11 ms without temperature, 0.13 with top-k, 0.23 with
# temperature alone, 0.3 to 0.5 with top-p alone.
DRAW_SECONDS = 0.9e-9
# A value of activations is normalised, rounded to 8 bits or passed through a sigmoid.
VALUE_SECONDS = 0.6e-9
STEP_SECONDS = 60e-6  # the coordinator's part of a step, and waking the workers
MOST_STEPS, LEAST_STEPS, ROWS_DRAWN = 400, 16, 4800  # steps drawn: fewer where many layers differ, and of many tokens
# Of a value that workers exchange: as it is, and rounded in blocks of 32 (for float formats 4).
FLOAT_BYTES, ROUNDED_BYTES = 4.0, 1.5
PIECE_POSITIONS = 512  # of a context, which one thread attends to at a time

_KindAndOwners = tuple[int, ExpertOwners]  # row of the drawn counts, and who holds what


class CostModel:
    """Predicts steps of one batch size for plans that differ only in who owns the experts; keeps what it has drawn."""

    def __init__(
        self,
        spec: ModelSpec,
        shards: Sequence[Shard],
        topology: Topology,
        speeds: Speeds,
        stats: ExpertStats | None = None,
        *,
        batch: int = 1,
        context: int = 0,  # positions that each sequence has in the KV cache
        kv_types: KvTypes = HALF_FLOATS,
    ) -> None:
        self._spec, self._shards, self._speeds = spec, tuple(shards), speeds
        self._batch, self._context, self._kv_types = batch, context, kv_types
        self._rates = rates_of(shards, topology, speeds)
        self._wait_seconds = speeds.wait_seconds(max(len(shard.cpus) for shard in shards))
        self._gather_seconds = speeds.gather_seconds + self._wait_seconds if len(self._shards) > 1 else 0.0
        self._width = [shard.width_rows.size for shard in shards]
        self._attention_width = [shard.heads.size * spec.head_size for shard in shards]
        self._expert_width = [shard.expert_rows.size for shard in shards]
        self._vocabulary = [shard.vocabulary.size for shard in shards]
        self._kinds, self._counts = self._draw(stats)
        self._priced: dict[tuple[ExpertOwners | None, ...], list[ExpertSeconds]] = {}

    def predict(self, plan: ShardPlan) -> Forecast:
        """Predict a step of a plan for the same shards."""
        total, loads = self._step_seconds(), 0.0
        attention: dict[tuple[object, ...], Seconds] = {}
        for layer in self._spec.layer_tensors:
            if (key := _types_of(layer)) not in attention:
                attention[key] = self._attention_seconds(layer)
            total += attention[key]
        experts = self.experts(plan.experts)
        for layer_experts in experts:
            total, loads = total + layer_experts.seconds, loads + layer_experts.mean
        slowest = sum(layer_experts.seconds.experts for layer_experts in experts)
        return Forecast(total, self._batch, slowest / loads if loads else 1.0)

    def experts(self, owners: Sequence[ExpertOwners | None]) -> list[ExpertSeconds]:
        """[L] predict the time of each layer's router and experts, if the experts are owned so."""
        if (known := self._priced.get(tuple(owners))) is not None:
            return known
        layers = self._spec.layer_tensors
        keys = [(kind, _types_of(layer), one) for kind, layer, one in zip(self._kinds, layers, owners, strict=True)]
        assigned = self._assigned([(kind, one) for kind, _, one in keys if one is not None])
        found: dict[tuple[object, ...], ExpertSeconds] = {}
        for layer, key in zip(layers, keys, strict=True):
            if key not in found:
                kind, _, one = key
                who = None if one is None else assigned[kind, one]
                found[key] = self._expert_seconds(layer, self._counts[kind], who)
        self._priced[tuple(owners)] = [found[key] for key in keys]
        return self._priced[tuple(owners)]

    def _assigned(self, wanted: Sequence[_KindAndOwners]) -> dict[_KindAndOwners, NDArray[np.int64]]:
        """[S, E] who computes each expert, for drawn counts and owners."""
        distinct = list(dict.fromkeys(wanted))
        if not distinct:
            return {}
        holders = holders_of([one for _, one in distinct], len(self._shards))
        return dict(zip(distinct, assign(self._counts[[kind for kind, _ in distinct]], holders), strict=True))

    def _draw(self, stats: ExpertStats | None) -> tuple[list[int], Counts]:
        """[L] the row of drawn counts that belongs to each layer, and these counts [kinds, S, E]."""
        spec = self._spec
        even = (1 / spec.experts,) * spec.experts
        shares = [even if stats is None else stats.shares(layer) for layer in range(spec.layers)]
        distinct = list(dict.fromkeys(shares))
        steps = min(MOST_STEPS, max(LEAST_STEPS, ROWS_DRAWN // (len(distinct) * self._batch)))
        counts = draw_steps(np.array(distinct), spec.active_experts, self._batch, steps)
        places = {one: index for index, one in enumerate(distinct)}
        return [places[one] for one in shares], counts

    def _expert_seconds(
        self,
        layer: LayerTensors,
        counts: NDArray[np.int64],  # [S, E]
        assigned: NDArray[np.int64] | None,  # [S, E] who computes each expert; None: everybody some rows
    ) -> ExpertSeconds:
        spec, whole = self._spec, assigned is not None
        router = self._rates[0].matrix_seconds(layer.router, spec.experts, self._batch) if layer.router else 0.0
        times = np.array([self._expert_times(layer, worker, whole) for worker in range(len(self._shards))])  # [W, B]
        step, expert = np.nonzero(counts)
        columns, steps, workers = counts[step, expert], len(counts), len(self._shards)
        if assigned is None:
            sums = [np.bincount(step, one[columns], steps) for one in times]
            each = np.stack(sums, axis=1)  # [S, W]
        else:
            worker = assigned[step, expert]
            each = np.bincount(step * workers + worker, times[worker, columns], steps * workers).reshape(steps, workers)
        seconds = Seconds(
            router=router,
            experts=float(each.max(axis=1).mean()),
            exchanges=self._expert_exchanges(whole),
            rest=self._expert_rest(),
        )
        return ExpertSeconds(seconds, float(each.mean()))

    def _expert_times(self, layer: LayerTensors, worker: int, whole: bool) -> list[float]:
        """[batch + 1] seconds of one expert with 0, 1, ... columns on a worker."""
        spec, shard = self._spec, self._shards[worker]
        inner = spec.expert_width if whole else shard.expert_rows.size
        outer = spec.width if whole else shard.width_rows.size
        parts, rates = ((layer.gate, inner), (layer.up, inner), (layer.down, outer)), self._rates[worker]
        counted = range(1, self._batch + 1)
        return [0.0] + [sum(rates.matrix_seconds(*part, columns) for part in parts) for columns in counted]

    def _expert_exchanges(self, whole: bool) -> float:
        """Seconds of two gathers and of reading what other workers made: the residual, intermediates or outputs."""
        columns = self._batch * self._spec.active_experts
        seconds = 2 * self._gather_seconds + self._remote_seconds(self._width, self._batch, FLOAT_BYTES)
        if whole:
            return seconds + self._remote_seconds(self._width, columns, FLOAT_BYTES) / len(self._shards)
        return seconds + self._remote_seconds(self._expert_width, columns, ROUNDED_BYTES)

    def _remote_seconds(self, parts: Sequence[int], columns: int, value_bytes: float) -> float:
        """Seconds to read columns of which every worker made a part; a core takes one column at a time."""
        values = self._slowest([sum(parts) - own for own in parts], columns)
        return values * value_bytes / self._speeds.link_bandwidth

    def _slowest(self, values: Sequence[float], columns: int) -> float:
        """Values that the slowest core has, of so many values of each worker in each of the columns."""
        return max(-(-columns // rates.cores) * own for own, rates in zip(values, self._rates, strict=True))

    def _expert_rest(self) -> float:
        """Seconds to normalise and round the input, to choose experts, and to round the worker's intermediates."""
        spec, columns = self._spec, self._batch * self._spec.active_experts
        choice = CHOICE_SECONDS * spec.experts * spec.active_experts if spec.layer_tensors[0].router else 0.0
        tokens = self._slowest([1.0] * len(self._shards), self._batch)
        waits = 5 if self._batch == 1 else 6  # a lone token's experts are chosen where its logits have been awaited
        values = tokens * spec.width + self._slowest([2.0 * own for own in self._expert_width], columns)
        return VALUE_SECONDS * values + tokens * choice + waits * self._wait_seconds

    def _attention_seconds(self, layer: LayerTensors) -> Seconds:
        """The time of a layer's attention, exchanges included."""
        spec, size = self._spec, self._spec.head_size
        slowest = Seconds()
        for shard, rates in zip(self._shards, self._rates, strict=True):
            rows = (
                (layer.attn_q, shard.heads.size * size),
                (layer.attn_k, shard.kv_heads.size * size),
                (layer.attn_v, shard.kv_heads.size * size),
            )
            matrices = sum(rates.matrix_seconds(tensor, count, self._batch) for tensor, count in rows)
            found = Seconds(attention=matrices, kv_cache=self._kv_seconds(shard, rates))
            slowest = max(slowest, found, key=lambda seconds: seconds.total)
        output = max(
            rates.matrix_seconds(layer.attn_output, shard.width_rows.size, self._batch)
            for shard, rates in zip(self._shards, self._rates, strict=True)
        )
        exchanges = 2 * self._gather_seconds
        exchanges += self._remote_seconds(self._attention_width, self._batch, ROUNDED_BYTES)
        exchanges += self._remote_seconds(self._width, self._batch, FLOAT_BYTES)
        values = self._slowest([spec.width + 2.0 * own for own in self._attention_width], self._batch)
        rest = VALUE_SECONDS * values + 3 * self._wait_seconds
        return slowest + Seconds(attention=output, exchanges=exchanges, rest=rest)

    def _kv_seconds(self, shard: Shard, rates: WorkerRates) -> float:
        """Seconds to read keys and values; threads share out sequences, key-value heads and pieces of long contexts."""
        spec, heads = self._spec, self._batch * shard.kv_heads.size
        if not heads or not self._context:
            return 0.0
        cores = min(rates.cores, heads * -(-self._context // PIECE_POSITIONS))
        size = heads * self._context * self._kv_types.bytes(spec.head_size)
        operations = 4 * self._batch * self._context * spec.head_size * shard.heads.size
        reading = size / min(rates.bandwidth, cores * self._speeds.core_bandwidth)
        return max(reading, operations / (cores * FLOATS_SHARE * self._speeds.integer_peak))

    def _step_seconds(self) -> Seconds:
        """The time of what a step does once, not per layer."""
        spec, tensor = self._spec, self._spec.output
        if not spec.draws:
            return Seconds(exchanges=STEP_GATHERS * self._gather_seconds, rest=STEP_SECONDS)
        output = max(
            rates.matrix_seconds(tensor, shard.vocabulary.size, self._batch)
            for shard, rates in zip(self._shards, self._rates, strict=True)
        )
        samples = -(-self._batch // len(self._shards))
        draws = self._slowest([spec.vocabulary] * len(self._shards), samples) * DRAW_SECONDS
        exchanges = STEP_GATHERS * self._gather_seconds + self._remote_seconds(self._vocabulary, samples, FLOAT_BYTES)
        return Seconds(output=output, exchanges=exchanges, rest=draws + STEP_SECONDS)


def _types_of(layer: LayerTensors) -> tuple[TensorType, ...]:
    """What layers differ in: the types of their matrices."""
    return tuple(matrix.type for matrix in layer.matrices)
