"""The whole experts of a worker, which come and go while steps run.

An expert's block (arrange.py draws it) is copied through the arena's transfer area, a part at a time: out of it by one
worker, into it by another. The step finds an expert through the addresses of the tables, and uses them only while the
arena's expert_holders name this worker; so they are set before that, and cleared after it. An expert is held only once
its pages are known to be where the worker's are to be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from numoe.model.architectures.spec import ModelSpec
from numoe.protos.locality import PAGE
from numoe.worker.loading.expert_block import ExpertBlock, expert_block
from numoe.worker.loading.loader import LoadedWeights
from numoe.worker.loading.weight_memory import WeightMemory
from numoe.worker.placing.locality_now import LocalityNow
from numoe.worker.placing.pages import range_of
from numoe.worker.running.verifying import Verifier

Bytes = NDArray[np.uint8]

# Copying is done on cores that compute: 0.1 ms of it, then a rest. Two workers, coordinator and clients on one core,
# experts of 2.7 MB: the longest pause is 26 ms, a move takes 66 ms. *Rejected*: a low priority for the thread, which
# gets its turns in runs of 3 ms (92 ms, part of it garbage collection; 123 ms a move).
SLICE_BYTES, REST_SECONDS = 256 << 10, 0.001


class HeldExperts:
    """Moves experts of layers whose experts are whole."""

    def __init__(
        self,
        spec: ModelSpec,
        loaded: LoadedWeights,
        place: WeightMemory,
        transfer: Bytes,
        locality: LocalityNow,
        keep: Callable[[list[Bytes]], None] | None = None,
    ) -> None:
        """`place` gave the memory of what was loaded. `keep`: what is done with memory that an expert came to lie in,
        such as locking it.

        Raises:
            SetupError: the pages of an expert that came before are on another node, and cannot be moved, or locked.
        """
        self._tables, self._memory, self._transfer = loaded.arranged.experts, loaded.memory, transfer
        self._place, self._locality, self._keep = place, locality, keep
        self.verifier: Verifier | None = None  # told of experts that come and go
        self._blocks: Sequence[ExpertBlock] = [expert_block(tensors, spec) for tensors in spec.layer_tensors]
        self._arrived: dict[tuple[int, int], Bytes] = {}
        self._arriving: dict[tuple[int, int], Bytes] = {}
        self._given_back = 0
        for layer, expert in place.left:
            self._given_back += self._blocks[layer].bytes // PAGE * PAGE
            self._tables[layer, :, expert] = 0
        for (layer, expert), block in place.came.items():
            self._hold(layer, expert, block)

    @property
    def bytes(self) -> int:
        """Memory of experts that came after loading, less what was given back of those loaded."""
        return sum(block.size for block in self._arrived.values()) - self._given_back

    def arrived_in(self, layer: int) -> list[Bytes]:
        """The memory of a layer's experts that came after loading."""
        return [block for (own, _), block in self._arrived.items() if own == layer]

    def copy_out(self, layer: int, expert: int, first: int) -> int:
        """Put a held expert's bytes from `first` on into the transfer area, as many as fit; returns how many."""
        part = self.block(layer, expert)[first : first + self._transfer.size]
        _copy(self._transfer[: part.size], part)
        return part.size

    def copy_in(self, layer: int, expert: int, first: int, count: int) -> bool:
        """Take `count` bytes of an expert from the transfer area; return whether it is held now, as they were the last.

        Raises:
            MemoryError: the node has no room for it.
            SetupError: its pages came to be on another node, and cannot be moved, or they cannot be locked.
        """
        size = self._blocks[layer].bytes
        if first == 0:
            self._arriving[layer, expert] = self._place.expert(layer, expert, size)
        block = self._arriving[layer, expert]
        _copy(block[first : first + count], self._transfer[:count])
        if first + count < size:
            return False
        del self._arriving[layer, expert]
        self._hold(layer, expert, block)
        self._place.expert_came(layer, expert)
        self._keep_digests()
        return True

    def _hold(self, layer: int, expert: int, block: Bytes) -> None:
        if self._keep is not None:
            self._keep([block])
        self._locality.arrive(layer, expert, range_of(block))
        self._arrived[layer, expert] = block
        self._tables[layer, :, expert] = self._blocks[layer].addresses(block.ctypes.data)
        if self.verifier is not None:
            self.verifier.add(expert_name(layer, expert), block)

    def drop(self, layer: int, expert: int) -> None:
        """Give the memory of an expert back; no step may use it any more."""
        block = self.block(layer, expert)
        if self.verifier is not None:
            self.verifier.remove(expert_name(layer, expert))
        self._keep_digests()
        self._tables[layer, :, expert] = 0
        if self._arrived.pop((layer, expert), None) is not None:
            self._locality.leave(layer, expert)
            self._place.expert_left(layer, expert)
        else:  # a part of what was loaded at once
            with self._locality.changing(layer, range_of(block)):
                self._given_back += self._place.loaded_expert_left(layer, expert, block)

    def _keep_digests(self) -> None:
        if self.verifier is not None:
            self._place.keep_digests(self.verifier.digests)

    def held(self, layer: int) -> list[int]:
        """The experts of a layer that are held."""
        return [int(expert) for expert in np.flatnonzero(self._tables[layer, 0])]

    def block(self, layer: int, expert: int) -> Bytes:
        """The memory of a held expert."""
        if (layer, expert) in self._arrived:
            return self._arrived[layer, expert]
        start = int(self._tables[layer, 0, expert]) - self._memory.ctypes.data
        return self._memory[start : start + self._blocks[layer].bytes]


def expert_name(layer: int, expert: int) -> str:
    """An expert, for people."""
    return f"expert {expert} of layer {layer}"


def _copy(out: Bytes, source: Bytes) -> None:
    """Copy slice by slice, with a rest after each: whoever computes on this core waits for one slice at most."""
    for first in range(0, out.size, SLICE_BYTES):
        out[first : first + SLICE_BYTES] = source[first : first + SLICE_BYTES]
        time.sleep(REST_SECONDS)
