"""How a shard lies in the worker's memory, and what must be read from the file to fill it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from numoe.kernels.weights.formats import BY_GGML_TYPE, ROWS
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorInfo
from numoe.model.planning.plan import Range, Shard


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of one expert, to be read and packed, or copied as they are."""

    tensor: TensorInfo
    first_row: int  # counted over all experts
    rows: int
    offset: int  # in the worker's memory: of the stride that holds the first panel, or of the first row
    stride: int  # bytes from one panel to the next, or of a row
    start: int  # of this matrix's panel in each stride
    packed: bool

    @property
    def bytes(self) -> int:
        """How much memory it fills."""
        return -(-self.rows // ROWS) * panel_bytes(self.tensor) if self.packed else self.rows * self.stride


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows of one expert, of matrices that lie panel beside panel: one range of the worker's memory."""

    tensors: tuple[TensorInfo, ...]
    packed: bool  # panels; else rows as in the file
    expert: int
    first: int  # panel, or row
    count: int  # of panels, or of rows
    offset: int  # in the worker's memory
    stride: int  # bytes from one panel of a matrix to its next, or of a row


@dataclass(frozen=True, slots=True)
class Arrangement:
    """A shard in memory. Addresses are missing until `place_at` says where the memory begins."""

    layers: NDArray[np.void]  # [L] LAYER
    head: NDArray[np.void]  # [1] MATRIX
    experts: NDArray[np.uintp]  # [L, 3, E] first panel of each expert's gate, up and down; 0: not held
    others: NDArray[np.uintp]  # [5L + 1] first panel of every other matrix
    pieces: tuple[Piece, ...]  # all that must be read, from a model's file
    blocks: tuple[Block, ...]  # the same, from a packed folder
    embedding: Range  # bytes of the embedding rows
    layer_bytes: tuple[Range, ...]  # [L] of each layer
    first_experts: tuple[int, ...]  # [L] where all of a layer that is no whole expert ends
    bytes: int

    def place_at(self, address: int) -> None:
        """Let the memory begin at an address; call it once."""
        for table in (self.experts, self.others):
            table[table != 0] += np.uintp(address - 1)  # offsets were noted plus one


def panel_bytes(tensor: TensorInfo) -> int:
    """Bytes of a panel: 16 rows."""
    format_ = BY_GGML_TYPE[tensor.type]
    return tensor.shape[-1] // format_.unit_values * format_.panel_unit_bytes


def head_rows(spec: ModelSpec, shard: Shard) -> tuple[Range, Range]:
    """The rows of queries, and of keys and values, that a shard owns: those of its heads."""
    size, heads, kv = spec.head_size, shard.heads, shard.kv_heads
    return Range(heads.start * size, heads.stop * size), Range(kv.start * size, kv.stop * size)
