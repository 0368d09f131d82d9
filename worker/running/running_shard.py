"""One shard, from an assignment to threads that run steps; everything of a worker but the way it is started."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from numoe.keeper.client import KeeperClient
from numoe.kernels.attention.kv_cache import KV_BLOCK
from numoe.model.planning.assignment import WorkerAssignment, layout_of
from numoe.protos.arena import DONE, FAILED, LOADING, READY, STEP
from numoe.protos.kv_files import BlockPart
from numoe.protos.last_words import FAILED_LINE
from numoe.protos.locality import PAGE, Locality
from numoe.worker.loading.arrange import arrange
from numoe.worker.loading.files import Files
from numoe.worker.loading.gguf_source import GgufSource
from numoe.worker.loading.kept_memory import KeptMemory
from numoe.worker.loading.loader import Source, load_weights
from numoe.worker.loading.packed_source import PackedSource
from numoe.worker.loading.weight_memory import PrivateMemory, WeightMemory, held_apart
from numoe.worker.placing.locality import ShardMemory, look, settle
from numoe.worker.placing.locality_now import LocalityNow
from numoe.worker.placing.memory import allocate, lock, map_arena
from numoe.worker.placing.pages import range_of
from numoe.worker.running.block_files import BlockFiles
from numoe.worker.running.block_records import BlockRecords
from numoe.worker.running.held_experts import HeldExperts, expert_name
from numoe.worker.running.step_records import kv_bytes
from numoe.worker.running.team import ThreadTeam
from numoe.worker.running.verifying import Verifier, WeightsChanged

_EXIT_FAILED = 70  # as sysexits.h: internal software error
_TOUCH_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What a worker has become."""

    pid: int
    weight_bytes: int
    kept_bytes: int  # of them, what had not to be read, as the worker before left it in the keeper's hands
    kv_bytes: int
    locality: Locality
    block_folder: Path | None  # where files of KV blocks lie; None: there are none
    block_part: BlockPart | None  # of each block, in files; None: nothing is put into any
    cpus: tuple[tuple[int, ...], ...]  # per computing thread: where the kernel lets it run


class RunningShard:
    """Owns a shard's memory and threads."""

    def __init__(self, assignment: WorkerAssignment, last_words: IO[str] = sys.stderr) -> None:
        assert assignment.limits.block_positions == KV_BLOCK, (assignment.limits.block_positions, KV_BLOCK)
        self.assignment, self._last_words = assignment, last_words
        self._layout = layout_of(assignment.spec, assignment.plan, assignment.limits)
        self._arena = self._map_arena()
        own = f"worker{assignment.worker}."
        self._state = self._layout.view(self._arena, own + "state")
        self._counters = self._layout.view(self._arena, own + "counters")

    def _touch_kv(self, first: int) -> int:
        """Have the kernel give a part of the KV cache's memory; returns how many bytes it is."""
        part = self._kv[first : first + _TOUCH_BYTES]
        part[::PAGE] = 0
        return part.size

    def _map_arena(self) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        descriptor = os.open(
            f"/proc/{self.assignment.coordinator}/fd/{self.assignment.arena}", os.O_RDWR | os.O_CLOEXEC
        )
        try:
            return map_arena(descriptor, self._layout.bytes)
        finally:
            os.close(descriptor)

    def load(self) -> ShardReport:
        """Take the memory, read the weights, start the threads; returns when the shard is ready for steps.

        Raises:
            ModelFileError, OSError: the model file cannot be read as it was planned.
            MemoryError: the node cannot hold the shard.
            SetupError: something is not on its node or CPUs and cannot be moved there, or not locked.
        """
        assignment, shard = self.assignment, self.assignment.shard
        self._state[0] = LOADING
        first, last = self._layout.parts[assignment.worker]
        self._part = self._arena[first:last]
        self._part[::PAGE] |= 0  # touched now, as the KV cache is below
        threads = len(set(shard.cpus))
        self._place = weight_memory(assignment, threads)
        arranged = arrange(assignment.spec, assignment.plan, shard, self._place.held)
        self._counters[0]["total_bytes"] = arranged.bytes + kv_bytes(assignment)
        self._weights = load_weights(assignment.spec, shard, arranged, threads, self._count, self._place, self._source)
        if assignment.lock_weights:
            self._lock([self._weights.memory, *self._weights.vectors, self._weights.output_norm])
        self._kv = allocate(kv_bytes(assignment))
        with ThreadPoolExecutor(threads, thread_name_prefix="pages") as pool:  # so that a full node shows now
            for size in pool.map(self._touch_kv, range(0, self._kv.size, _TOUCH_BYTES)):
                self._count(size)
        self.block_records = BlockRecords(assignment, self._kv) if assignment.saves_blocks else None
        store = assignment.kv_store
        self.block_files = BlockFiles(store, self.block_records) if store and self.block_records else None
        self._team = ThreadTeam(assignment, self._layout, self._arena, self._weights, self._kv, self._fail)
        self._team.start()
        found = settle(self._loaded_memory(), shard, assignment.allow_remote_memory)
        self._locality = LocalityNow(found, shard, assignment.allow_remote_memory)
        transfer = self._layout.view(self._arena, "transfer")
        keep = self._lock if assignment.lock_weights else None
        self.experts = HeldExperts(assignment.spec, self._weights, self._place, transfer, self._locality, keep)
        for layer, wanted in enumerate(held_apart(assignment.plan, assignment.worker)):
            for expert in [] if wanted is None else set(self.experts.held(layer)).difference(wanted):
                self.experts.drop(layer, expert)  # of a move that whoever began it could not end
        if assignment.verify_seconds is not None:
            known = self._place.digests
            verifier = Verifier(self._parts(), assignment.verify_seconds, self._is_idle, self._fail, known)
            self._place.keep_digests(verifier.digests)
            self.experts.verifier = verifier
            verifier.start()
        self._state[0] = READY
        return self.report()

    def _source(self, files: Files) -> Source:
        """Where the weights come from."""
        spec, packed = self.assignment.spec, self.assignment.packed
        return GgufSource(files) if packed is None else PackedSource(files, packed, spec.model)

    def _parts(self) -> dict[str, NDArray[np.uint8]]:
        """All weights, by what they are: whole experts singly, as they may go."""
        weights, parts = self._weights, {"the vocabulary": self._weights.vocabulary_memory}
        arranged = weights.arranged
        for layer, (held, first) in enumerate(zip(self._place.held, arranged.first_experts, strict=True)):
            parts[f"layer {layer}"] = weights.memory[arranged.layer_bytes[layer].start : first]
            for expert in () if held is None else self.experts.held(layer):
                parts[expert_name(layer, expert)] = self.experts.block(layer, expert)
        return parts

    def _is_idle(self) -> bool:
        """Whether no step is under way."""
        words = self._arena[: 4 * 1024].view(np.int32)
        return bool(words[STEP // 4] == words[DONE // 4])

    def report(self) -> ShardReport:
        """What the worker has become: as it was loaded, and as its experts came and went since."""
        return self._report(self._locality.now())

    def recount(self) -> ShardReport:
        """As `report`, but ask the kernel about every page: 0.1 s per GiB. No expert may come or go meanwhile."""
        loaded = self._loaded_memory()
        layers = [
            [*parts, *(range_of(block) for block in self.experts.arrived_in(layer))]
            for layer, parts in enumerate(loaded.layers)
        ]
        return self._report(look(replace(loaded, layers=layers), self.assignment.shard))

    def _report(self, locality: Locality) -> ShardReport:
        return ShardReport(
            pid=os.getpid(),
            weight_bytes=self._weights.memory.size + self.experts.bytes,
            kept_bytes=self._weights.memory.size if self._weights.written_before else 0,
            kv_bytes=self._kv.size,
            locality=locality,
            block_folder=self.block_files.folder if self.block_files else None,
            block_part=self.block_records.part if self.block_records else None,
            cpus=tuple(tuple(sorted(os.sched_getaffinity(thread.native_id or 0))) for thread in self._team.threads),
        )

    def _lock(self, parts: Sequence[NDArray[Any]]) -> None:
        """Keep weights from being swapped out; once they are written, as locking gives memory that has no pages yet."""
        lock(self.assignment.worker, parts)

    def _loaded_memory(self) -> ShardMemory:
        weights = self._weights
        return ShardMemory(
            layers=[[range_of(weights.layer_memory(layer))] for layer in range(self.assignment.spec.layers)],
            vocabulary=[range_of(weights.vocabulary_memory)],
            kv=range_of(self._kv),
            arena=range_of(self._part),
        )

    def _count(self, size: int) -> None:
        self._counters[0]["loaded_bytes"] += size

    def _fail(self, error: BaseException) -> None:
        """End every wait of the group, and this process: the coordinator is to notice that a computing thread broke."""
        self._state[0] = FAILED
        if isinstance(error, WeightsChanged):
            self._place.distrust()  # or the next worker would take the same up
        traceback.print_exception(error)
        self._last_words.write(f"{FAILED_LINE}{error or type(error).__name__}\n")
        self._last_words.flush()
        self._team.abort()
        os._exit(_EXIT_FAILED)


def weight_memory(assignment: WorkerAssignment, threads: int) -> WeightMemory:
    """Where a worker's weights are to lie.

    Pages that lie on several nodes in turn are not kept: the kernel chooses a node for each huge page of shared memory
    by its first small one, whose turn is always the same.
    """
    if assignment.keeper is None or assignment.shard.spread is not None:
        return PrivateMemory(assignment.plan, assignment.worker)
    return KeptMemory(KeeperClient(assignment.keeper), assignment.spec, assignment.plan, assignment.worker, threads)
