"""The whole experts of a worker, which come and go while steps run.

An expert's block (arrange.py draws it) is copied through the arena's transfer area, a part at a time: out of it by one
worker, into it by another. The step finds an expert through the addresses of the tables, and uses them only while the
arena's expert_holders name this worker; so they are set before that, and cleared after it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from numoe.model.spec import ModelSpec
from numoe.worker.arrange import ExpertBlock, expert_block
from numoe.worker.loader import LoadedWeights
from numoe.worker.memory import allocate, give_back

Bytes = NDArray[np.uint8]


class HeldExperts:
    """Moves experts of layers whose experts are whole."""

    def __init__(self, spec: ModelSpec, loaded: LoadedWeights, transfer: Bytes) -> None:
        self._tables, self._memory, self._transfer = loaded.arranged.experts, loaded.memory, transfer
        self._blocks: Sequence[ExpertBlock] = [expert_block(tensors, spec) for tensors in spec.layer_tensors]
        self._arrived: dict[tuple[int, int], Bytes] = {}
        self._arriving: dict[tuple[int, int], Bytes] = {}

    @property
    def arrived_bytes(self) -> int:
        """Memory of experts that came after loading."""
        return sum(block.size for block in self._arrived.values())

    def arrived_in(self, layer: int) -> list[Bytes]:
        """The memory of those of a layer."""
        return [block for (own, _), block in self._arrived.items() if own == layer]

    def copy_out(self, layer: int, expert: int, first: int) -> int:
        """Put a held expert's bytes from `first` on into the transfer area; returns how many, 0 past its end."""
        part = self._block(layer, expert)[first : first + self._transfer.size]
        self._transfer[: part.size] = part
        return part.size

    def copy_in(self, layer: int, expert: int, first: int, count: int) -> None:
        """Take `count` bytes of an expert from the transfer area; with the last of them it is held.

        Raises:
            MemoryError: the node has no room for it.
        """
        size = self._blocks[layer].bytes
        if first == 0:
            self._arriving[layer, expert] = allocate(size)
        block = self._arriving[layer, expert]
        block[first : first + count] = self._transfer[:count]
        if first + count == size:
            self._arrived[layer, expert] = self._arriving.pop((layer, expert))
            self._tables[layer, :, expert] = self._blocks[layer].addresses(block.ctypes.data)

    def drop(self, layer: int, expert: int) -> None:
        """Give the memory of an expert back; no step may use it any more."""
        block = self._block(layer, expert)
        self._tables[layer, :, expert] = 0
        if self._arrived.pop((layer, expert), None) is None:
            give_back(block)  # a part of what was loaded at once

    def _block(self, layer: int, expert: int) -> Bytes:
        if (layer, expert) in self._arrived:
            return self._arrived[layer, expert]
        start = int(self._tables[layer, 0, expert]) - self._memory.ctypes.data
        return self._memory[start : start + self._blocks[layer].bytes]
