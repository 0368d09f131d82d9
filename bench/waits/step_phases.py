"""The phases of one worker's decode of one token, as kernels/step has them: what each reads, and in how many claims."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.waits.simulation import Phase, Scheme
from numoe.kernels.experts.phases import ADD_CHUNK
from numoe.kernels.matmul.claims import CLAIM_BYTES
from numoe.kernels.weights.formats import ROWS
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorInfo
from numoe.model.planning.panels import rows_bytes
from numoe.model.planning.prediction.cost import CHOICE_SECONDS, DRAW_SECONDS, VALUE_SECONDS
from numoe.model.planning.prediction.worker_rates import WorkerRates

NORM_SHARE = 0.2  # of the time in which a column is normalised and rounded: what every thread does that rounds a piece
HEADS_SECONDS = 0.1e-6  # of a head: normalised, rotated, stored
PIECES = 8  # of a phase of small work


def phases_of(spec: ModelSpec, rates: WorkerRates, scheme: Scheme) -> Iterator[Phase]:
    """Of a worker that holds all of a model."""
    heads = spec.query_heads + 2 * spec.kv_heads
    rounding = VALUE_SECONDS * spec.width
    choice = CHOICE_SECONDS * spec.experts * spec.active_experts
    for layer in spec.layer_tensors:
        yield _norm(rounding, rates, scheme)
        size = spec.head_size
        kv_rows = spec.kv_heads * size
        rows = [(layer.attn_q, spec.query_heads * size), (layer.attn_k, kv_rows), (layer.attn_v, kv_rows)]
        yield _product(rows, rates)
        yield Phase(0.0, HEADS_SECONDS * heads, -(-heads // PIECES))
        yield Phase(0.0, VALUE_SECONDS * spec.query_heads * size, spec.kv_heads)
        yield _product([(layer.attn_output, spec.width)], rates)
        yield _norm(rounding, rates, scheme)
        if layer.router is not None:
            router = _product([(layer.router, spec.experts)], rates, scheme.router_parts)
            if scheme.chosen_by_last:
                yield replace(router, last=choice)
            else:
                yield router
                yield Phase(0.0, 0.0, 0, serial=choice)
        active, inner = spec.active_experts, spec.expert_width
        gate_up = _product([(layer.gate, active * inner), (layer.up, active * inner)], rates)
        rounded = VALUE_SECONDS * 2 * active * inner
        blocks = _claims(layer.gate, inner // 2, 4)  # of 32 rows of both: two panels of either
        yield Phase(gate_up.seconds + rounded / rates.cores, gate_up.alone + rounded, active * blocks)
        down = _product([(layer.down, active * spec.width)], rates)
        yield replace(down, items=active * _claims(layer.down, spec.width))
        yield Phase(0.0, VALUE_SECONDS * spec.width, max(1, spec.width // ADD_CHUNK))
    yield _norm(rounding, rates, scheme)
    yield _product([(spec.output, spec.vocabulary)], rates)
    yield Phase(0.0, 0.0, 0, serial=DRAW_SECONDS * spec.vocabulary)


def _norm(seconds: float, rates: WorkerRates, scheme: Scheme) -> Phase:
    if scheme.shared_rounding:
        return Phase(0.0, seconds * (NORM_SHARE * rates.cores + 1 - NORM_SHARE), rates.cores)
    return Phase(0.0, 0.0, 0, serial=seconds)


def _product(rows: list[tuple[TensorInfo, int]], rates: WorkerRates, parts: int = 1) -> Phase:
    """Matrices times one column; `parts` of the inputs are multiplied by themselves."""
    core = WorkerRates(1, min(rates.bandwidth, rates.speeds.core_bandwidth), rates.speeds)
    seconds, alone = (sum(one.matrix_seconds(tensor, count, 1) for tensor, count in rows) for one in (rates, core))
    return Phase(seconds, alone, parts * sum(_claims(tensor, count) for tensor, count in rows))


def _claims(tensor: TensorInfo, rows: int, panels: int = 1) -> int:
    """Claims of so many rows of a matrix, in units of some panels, which are not divided."""
    return -(-(rows // ROWS) // max(1, CLAIM_BYTES // (panels * rows_bytes(tensor, ROWS))))
