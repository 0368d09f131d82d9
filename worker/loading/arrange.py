"""Lays out a shard: where each of its matrices lies in the worker's memory.

Matrices that a step reads panel by panel in turn lie panel beside panel. Where the plan splits experts by row, a layer
holds the gate and up panels of all experts, then their down panels. Where it gives out whole experts, each that the
worker holds is a block of its own, on pages of its own, so that it can be given to another worker (expert_block.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.records import LAYER, MATRIX
from numoe.kernels.weights.formats import BLOCK, BY_GGML_TYPE, NUMBERS, ROWS
from numoe.model.architectures.spec import LayerTensors, ModelSpec
from numoe.model.gguf.tensors import TensorInfo
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.plan import Range, Shard, ShardPlan
from numoe.protos.locality import PAGE
from numoe.worker.loading.arrangement import Arrangement, Block, Piece, head_rows, panel_bytes
from numoe.worker.loading.weight_memory import held_apart

DENSE = ("q", "k", "v", "output", "router")  # record fields of a layer's matrices but the experts'
EXPERT = ("gate", "up", "down")
# Of these, matrices that a step reads panel by panel in turn: one stream of memory, as far as the CPU sees.
TOGETHER = (("gate", "up"), ("down",))
READ_BYTES = 4 << 20  # per read: large enough for full disk speed, small enough to stay in the L2/L3 while packed


def layer_rows(
    tensors: LayerTensors, spec: ModelSpec, shard: Shard, owners: ExpertOwners | None
) -> Iterator[tuple[str, TensorInfo, Range]]:
    """Yield the matrices of a layer by record field, with the rows of each that a shard owns."""
    heads, kv = head_rows(spec, shard)
    yield "q", tensors.attn_q, heads
    yield "k", tensors.attn_k, kv
    yield "v", tensors.attn_v, kv
    yield "output", tensors.attn_output, shard.width_rows
    if tensors.router is not None:
        yield "router", tensors.router, Range(0, spec.experts)
    by_row = owners is None
    yield "gate", tensors.gate, shard.expert_rows if by_row else Range(0, spec.expert_width)
    yield "up", tensors.up, shard.expert_rows if by_row else Range(0, spec.expert_width)
    yield "down", tensors.down, shard.width_rows if by_row else Range(0, spec.width)


def arrange(
    spec: ModelSpec, plan: ShardPlan, shard: Shard, held: Sequence[Sequence[int] | None] | None = None
) -> Arrangement:
    """Lay out one worker's memory.

    `held`: [L] the whole experts that lie in it, of layers that are not split by row; None: those that the plan gives.
    """
    arranger = _Arranger(spec)
    held = held or held_apart(plan, shard.worker)
    layer_bytes, first_experts = [], []
    for layer, (tensors, owners) in enumerate(zip(spec.layer_tensors, plan.experts, strict=True)):
        start = arranger.used
        arranger.layer(layer, {name: (tensor, rows) for name, tensor, rows in layer_rows(tensors, spec, shard, owners)})
        arranger.layers[layer]["whole"] = owners is not None
        shared, apart = arranger.used, held[layer]
        arranger.experts_of(layer, range(spec.experts) if apart is None else apart, apart=apart is not None)
        layer_bytes.append(Range(start, arranger.used))
        first_experts.append(arranger.used if apart is None else shared)
    none = Range(0, 0)
    drawn, embedded = shard.vocabulary if spec.draws else none, shard.vocabulary if spec.embeds else none
    arranger.matrix([arranger.head[0]], [spec.output], drawn, arranger.others[-1:].reshape(1, 1), (0,))
    start = arranger.used
    arranger.rows(spec.token_embedding, embedded)
    return Arrangement(
        arranger.layers,
        arranger.head,
        arranger.experts,
        arranger.others,
        tuple(arranger.pieces),
        tuple(arranger.blocks),
        Range(start, arranger.used),
        tuple(layer_bytes),
        tuple(first_experts),
        arranger.used,
    )


class _Arranger:
    """Hands out memory for matrices, fills their records and notes what must be read."""

    def __init__(self, spec: ModelSpec) -> None:
        self.layers, self.head = np.zeros(spec.layers, LAYER), np.zeros(1, MATRIX)
        self.experts = np.zeros((spec.layers, len(EXPERT), spec.experts), np.uintp)
        self.others = np.zeros(len(DENSE) * spec.layers + 1, np.uintp)
        self.pieces: list[Piece] = []
        self.blocks: list[Block] = []
        self.used = 0
        self._fields: dict[str, tuple[TensorInfo, Range]] = {}

    def layer(self, layer: int, fields: dict[str, tuple[TensorInfo, Range]]) -> None:
        """Lay out all matrices of a layer but the experts'."""
        self._fields = fields
        tables = self.others[len(DENSE) * layer : len(DENSE) * (layer + 1)].reshape(-1, 1)
        for number, name in enumerate(DENSE):
            if name in fields:
                tensor, rows = fields[name]
                self.matrix([self.layers[layer][name]], [tensor], rows, tables[number : number + 1], (0,))

    def experts_of(self, layer: int, held: Sequence[int], *, apart: bool) -> None:
        """Lay out experts of the layer arranged last: all matrix by matrix, or each `apart` from the others."""
        blocks: list[Sequence[int]] = [(expert,) for expert in held] if apart else [held]
        for some in blocks or [()]:  # the records are filled without any, as experts may come
            if apart and some:
                self.used = -(-self.used // PAGE) * PAGE
            for names in TOGETHER:
                records = [self.layers[layer][name] for name in names]
                tensors, rows = [self._fields[name][0] for name in names], self._fields[names[0]][1]
                first = EXPERT.index(names[0])
                self.matrix(records, tensors, rows, self.experts[layer, first : first + len(names)], some)

    def matrix(
        self,
        records: Sequence[NDArray[np.void]],
        tensors: Sequence[TensorInfo],
        rows: Range,
        tables: NDArray[np.uintp],  # [matrices, E] written
        experts: Sequence[int],
    ) -> None:
        """Lay out some experts of matrices of one shape, panel beside panel."""
        panels, stride = -(-rows.size // ROWS), sum(panel_bytes(tensor) for tensor in tensors)
        start = 0
        for record, tensor, table in zip(records, tensors, tables, strict=True):
            format_, size = BY_GGML_TYPE[tensor.type], panel_bytes(tensor)
            record["experts"], record["rows"], record["panels"] = table.ctypes.data, rows.size, panels
            record["blocks"] = tensor.shape[-1] // BLOCK
            record["panel_bytes"], record["panel_stride"], record["expert_bytes"] = size, stride, panels * size
            record["tile"], record["integer"] = NUMBERS[format_.name], format_.integer
            for number, expert in enumerate(experts):
                offset = self.used + number * panels * stride
                table[expert] = offset + start + 1
                self._list(tensor, rows, expert, offset, stride, start)
            start += size
        for number, expert in enumerate(experts):
            offset = self.used + number * panels * stride
            self.blocks.append(Block(tuple(tensors), True, expert, rows.start // ROWS, panels, offset, stride))
        self.used += len(experts) * panels * stride

    def _list(self, tensor: TensorInfo, rows: Range, expert: int, offset: int, stride: int, start: int) -> None:
        """Note the pieces of one expert of a matrix whose first panel lies at `offset` + `start`."""
        step = max(1, READ_BYTES // (ROWS * tensor.row_bytes)) * ROWS
        for first in range(0, rows.size, step):
            row = expert * tensor.shape[-2] + rows.start + first
            place = offset + first // ROWS * stride
            self.pieces.append(Piece(tensor, row, min(step, rows.size - first), place, stride, start, True))

    def rows(self, tensor: TensorInfo, rows: Range) -> None:
        """Lay out a tensor's rows as they are in the file."""
        size = tensor.row_bytes
        step = max(1, READ_BYTES // size)
        for first in range(0, rows.size, step):
            count = min(step, rows.size - first)
            self.pieces.append(Piece(tensor, rows.start + first, count, self.used + first * size, size, 0, False))
        self.blocks.append(Block((tensor,), False, 0, rows.start, rows.size, self.used, size))
        self.used += rows.size * size
