"""Memory of a worker's weights that a keeper holds, so that the next worker finds them written.

    W/loaded        all that was loaded at once; its note says of what, and which whole experts lie in it
    W/left/L/E      an expert of those was given back: no memory
    W/came/L/E      an expert that came later
    W/digests       of all of them, where somebody takes some (--verify-weights)

*Guarantees*: what is taken up is what the same plan of the same files, in the same state, would load into the same
node's memory; or else nothing of it is, and it is given back. Each change is told to the keeper before it counts: an
expert is kept before a step uses it, and noted as left before its memory is given back. A keeper that is gone takes
nothing with it but what a next worker would have found.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from numoe.keeper.client import KeeperClient, KeeperGone, Kept, close_all
from numoe.keeper.process import allow_many_files
from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.panels import PANEL_LAYOUT
from numoe.model.planning.plan import ShardPlan
from numoe.worker.loading.weight_memory import Place, held_apart
from numoe.worker.placing.shared_memory import allocate_shared, map_shared, protect, punch

VERSION = 1  # of what is kept: how a shard is arranged, and the notes

Bytes = NDArray[np.uint8]


class KeptMemory:
    """Implements WeightMemory (weight_memory.py)."""

    def __init__(self, keeper: KeeperClient, spec: ModelSpec, plan: ShardPlan, worker: int, threads: int) -> None:
        """Look what is kept for the worker. Raises MemoryError: it cannot be mapped."""
        self._keeper, self._prefix, self._threads = keeper, f"{worker}/", threads
        self._key = key_of(spec, plan, worker)
        self._node = plan.shards[worker].node
        self._loaded, self._bytes = -1, 0  # the descriptor of what was loaded at once, -1: not yet; its size
        self._memory = np.zeros(0, np.uint8)
        self._coming: dict[Place, tuple[Bytes, int]] = {}
        self.held: Sequence[Sequence[int] | None] = held_apart(plan, worker)
        self.left: Collection[Place] = ()
        self.came: Mapping[Place, Bytes] = {}
        self.digests: Mapping[str, bytes] = {}
        allow_many_files()
        try:
            found = self._keeper.items(self._prefix)
        except KeeperGone as gone:
            _tell(gone)
            return
        try:
            if found and not self._take_up(found):
                self.distrust()
        finally:
            close_all(found)

    def _take_up(self, found: list[Kept]) -> bool:
        """Whether all that the plan gives the worker is there, and is now this worker's."""
        kept = {one.name.removeprefix(self._prefix): one for one in found}
        loaded = kept.get("loaded")
        if loaded is None or loaded.descriptor is None or not isinstance(loaded.note, dict):
            return False
        if loaded.note.get("key") != self._key:
            return False
        held = [None if mask is None else _experts(mask) for mask in loaded.note["held"]]
        left = {_place(name) for name in kept if name.startswith("left/")}
        whole = {name: one for name, one in kept.items() if one.descriptor is not None}  # what came with its memory
        came = {_place(name): one for name, one in whole.items() if name.startswith("came/")}
        there = {(layer, expert) for layer, some in enumerate(held) for expert in some or ()} - left | set(came)
        wanted = {(layer, expert) for layer, some in enumerate(self.held) for expert in some or ()}
        if not wanted <= there:
            return False
        self.held, self.left = held, left
        self._loaded, self._bytes = os.dup(loaded.descriptor), int(loaded.note["bytes"])
        self.came = {place: self._mapped(one) for place, one in came.items()}
        if (digests := kept.get("digests")) and digests.descriptor is not None:
            self.digests = _digests_of(digests.descriptor)
        return True

    def _mapped(self, kept: Kept) -> Bytes:
        assert kept.descriptor is not None, kept
        return map_shared(kept.descriptor, int(str(kept.note)), self._threads)

    def load(self, size: int) -> tuple[Bytes, bool]:  # [size]
        """See WeightMemory."""
        if self._loaded >= 0:
            assert size == self._bytes, (size, self._bytes)
            self._memory = map_shared(self._loaded, size, self._threads)
            return self._memory, True
        self._memory, self._loaded = allocate_shared(size, self._threads)
        return self._memory, False

    def loaded(self) -> None:
        """See WeightMemory."""
        protect(self._memory, self._loaded)
        held = [None if some is None else _mask(some) for some in self.held]
        note = {"key": self._key, "bytes": self._memory.size, "node": self._node, "held": held}
        self._put("loaded", note, self._loaded)

    def expert(self, layer: int, expert: int, size: int) -> Bytes:  # [size]
        """See WeightMemory."""
        block, descriptor = allocate_shared(size, 1)
        self._drop_coming(layer, expert)  # of a move that failed
        self._coming[layer, expert] = block, descriptor
        return block

    def expert_came(self, layer: int, expert: int) -> None:
        """See WeightMemory."""
        block, descriptor = self._coming[layer, expert]
        protect(block, descriptor)
        self._put(f"came/{layer}/{expert}", block.size, descriptor)
        self._drop_coming(layer, expert)

    def _drop_coming(self, layer: int, expert: int) -> None:
        if (layer, expert) in self._coming:
            os.close(self._coming.pop((layer, expert))[1])

    def expert_left(self, layer: int, expert: int) -> None:
        """See WeightMemory."""
        with suppress(KeeperGone):
            self._keeper.remove(f"{self._prefix}came/{layer}/{expert}")

    def loaded_expert_left(self, layer: int, expert: int, block: Bytes) -> int:
        """See WeightMemory."""
        self._put(f"left/{layer}/{expert}", 0)
        return punch(self._loaded, block.ctypes.data - self._memory.ctypes.data, block.size)

    def keep_digests(self, digests: Mapping[str, bytes]) -> None:
        """See WeightMemory."""
        told = json.dumps({name: digest.hex() for name, digest in digests.items()}).encode()
        with os.fdopen(os.memfd_create("numoe-digests"), "wb") as file:  # too long for a note
            file.write(told)
            file.flush()
            self._put("digests", 0, file.fileno())

    def distrust(self) -> None:
        """See WeightMemory."""
        with suppress(KeeperGone):
            self._keeper.remove(self._prefix)

    def _put(self, name: str, note: object, descriptor: int | None = None) -> None:
        try:
            self._keeper.put(self._prefix + name, note, descriptor)
        except KeeperGone as gone:
            _tell(gone)


def key_of(spec: ModelSpec, plan: ShardPlan, worker: int) -> str:
    """What the memory of a worker follows from, but for the whole experts in it: files, sizes, rows, node."""
    shard = plan.shards[worker]
    rows = shard.heads, shard.kv_heads, shard.width_rows, shard.expert_rows, shard.vocabulary
    by_row = [owners is None for owners in plan.experts]
    return blake3(repr((VERSION, PANEL_LAYOUT, spec, rows, shard.node, by_row)).encode()).hexdigest()


def _digests_of(descriptor: int) -> dict[str, bytes]:
    told = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    return {name: bytes.fromhex(digest) for name, digest in json.loads(told).items()}


def _mask(experts: Sequence[int]) -> str:
    return f"{sum(1 << expert for expert in experts):x}"


def _experts(mask: str) -> tuple[int, ...]:
    bits = int(mask, 16)
    return tuple(expert for expert in range(bits.bit_length()) if bits >> expert & 1)


def _place(name: str) -> Place:
    layer, expert = name.split("/")[1:]
    return int(layer), int(expert)


def _tell(gone: KeeperGone) -> None:
    sys.stderr.write(f"weights are not kept beyond this worker: {gone}\n")
