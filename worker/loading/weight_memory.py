"""The memory that a worker's weights lie in: its own, or one that outlives it (kept_memory.py)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from numoe.model.planning.plan import ShardPlan
from numoe.worker.placing.memory import allocate, give_back

Bytes = NDArray[np.uint8]
Place = tuple[int, int]  # a layer, and an expert of it


class WeightMemory(Protocol):
    """Of one worker; used by one thread at a time."""

    held: Sequence[Sequence[int] | None]
    """[L] the whole experts that lie in what is loaded at once; None: the layer's are split by row."""

    left: Collection[Place]
    """Whole experts that lay there, and whose memory was given back before this worker came."""

    came: Mapping[Place, Bytes]
    """Whole experts that were taken up elsewhere before this worker came, each with its memory."""

    digests: Mapping[str, bytes]
    """Of parts that were there before this worker came, what somebody had them kept with."""

    def load(self, size: int) -> tuple[Bytes, bool]:  # [size]
        """The memory of all that is loaded at once, and whether it has been written before. Raises MemoryError."""

    def loaded(self) -> None:
        """It has been written, and will not be again."""

    def expert(self, layer: int, expert: int, size: int) -> Bytes:  # [size]
        """Memory for a whole expert that comes. Raises MemoryError."""

    def expert_came(self, layer: int, expert: int) -> None:
        """It has been written, and will not be again."""

    def expert_left(self, layer: int, expert: int) -> None:
        """Nobody reads the memory any more that an expert had which came."""

    def loaded_expert_left(self, layer: int, expert: int, block: Bytes) -> int:
        """Nobody reads a part any more of what was loaded at once; returns the bytes that are given back."""

    def keep_digests(self, digests: Mapping[str, bytes]) -> None:
        """Have these found beside the memory by the next worker."""

    def distrust(self) -> None:
        """What is in the memory is not what was written there."""


def held_apart(plan: ShardPlan, worker: int) -> list[tuple[int, ...] | None]:
    """[L] the whole experts that a plan gives a worker; None: the layer's are split by row."""
    return [None if owners is None else owners.held_by(worker) for owners in plan.experts]


class PrivateMemory:
    """Memory of this process, which ends with it."""

    left: Collection[Place] = ()
    came: Mapping[Place, Bytes] = MappingProxyType({})
    digests: Mapping[str, bytes] = MappingProxyType({})

    def __init__(self, plan: ShardPlan, worker: int, take: Callable[[int], Bytes] = allocate) -> None:
        """`take` gives so many bytes, of pages that nobody has touched."""
        self.held: Sequence[Sequence[int] | None] = held_apart(plan, worker)
        self._take = take

    def load(self, size: int) -> tuple[Bytes, bool]:  # [size]
        """See WeightMemory."""
        return self._take(size), False

    def loaded(self) -> None:
        """See WeightMemory."""

    def expert(self, layer: int, expert: int, size: int) -> Bytes:  # [size]
        """See WeightMemory."""
        return self._take(size)

    def expert_came(self, layer: int, expert: int) -> None:
        """See WeightMemory."""

    def expert_left(self, layer: int, expert: int) -> None:
        """See WeightMemory."""

    def loaded_expert_left(self, layer: int, expert: int, block: Bytes) -> int:
        """See WeightMemory."""
        return give_back(block)

    def keep_digests(self, digests: Mapping[str, bytes]) -> None:
        """See WeightMemory."""

    def distrust(self) -> None:
        """See WeightMemory."""
