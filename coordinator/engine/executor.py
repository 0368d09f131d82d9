"""What the engine asks of the workers; the launcher's HostGroup are one kind, the tests' fake ones another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from numoe.coordinator.engine.kv.slot_orders import Found, Read
from numoe.coordinator.engine.kv.slots import Left
from numoe.protos.messages import Step, StepLimits, StepResult


class BlockStore(Protocol):
    """Where blocks outlive the workers, by their keys (kv/block_keys.py)."""

    def find(self, keys: Sequence[bytes]) -> int:
        """How many of these, from the first on, are kept."""

    def save(self, blocks: Sequence[tuple[int, bytes]], unchanged: Callable[[int], int]) -> None:
        """Has full blocks kept, and returns at once.

        `unchanged` is a number of each block that changes with what it holds: a block whose number changes meanwhile is
        not kept.
        """

    def restore(self, blocks: Sequence[tuple[int, bytes]]) -> int:
        """Reads blocks into the workers' memory, between two steps; returns how many, from the first on, are there.

        May raise WorkerLost.
        """

    def forget(self, key: bytes) -> None:
        """Keeps a block no longer; harmless where it is not kept."""


@dataclass(frozen=True, slots=True)
class SavedSlot:
    """What a file has of a slot."""

    left: Left
    bytes: int  # of the file
    read: Read  # its blocks; may raise InvalidRequest, which names what does not fit, and WorkerLost


class SlotStore(Protocol):
    """Files of slots, by names that an operator gives; for any thread, and each call takes as long as its bytes."""

    def check(self, name: str) -> None:
        """Raises InvalidRequest of `filename` where it is no name of a file; returns at once."""

    def save(self, name: str, found: Found, unchanged: Callable[[int], int]) -> tuple[int, int]:
        """Writes what was found; returns how many blocks, and bytes.

        `unchanged` is a number of each block: blocks are written up to the first whose number is another than was
        found. Raises InvalidRequest of `filename`, Unavailable, WorkerLost.
        """

    def open(self, name: str) -> SavedSlot:
        """Looks at what was saved. Raises InvalidRequest of `filename`."""


class StepExecutor(Protocol):
    """The workers, as the engine sees them; all methods but `close` are called from the engine's thread."""

    @property
    def limits(self) -> StepLimits: ...

    @property
    def store(self) -> BlockStore | None:
        """None: no block outlives the workers."""

    @property
    def slot_files(self) -> SlotStore | None:
        """None: slots are not saved."""

    @property
    def depth(self) -> int:
        """How many steps may be under way at once: as many as there are hosts that run a part of each."""

    def submit(self, step: Step) -> None:
        """Hands the step to the workers and returns at once; reads none of its arrays later. May raise WorkerLost."""

    def collect(self, timeout_seconds: float) -> StepResult:
        """Waits for the oldest step under way; raises WorkerLost when a worker died or the time is up."""

    def check(self) -> None:
        """Looks at workers that have nothing to do, and returns at once; raises WorkerLost when one died."""

    def restart(self, look: Callable[[], None]) -> None:
        """Brings all workers back after WorkerLost, with empty KV caches; raises if that fails.

        Calls `look` now and then; an exception that it raises ends the restart.
        """

    def close(self) -> None:
        """Ends the workers; harmless when repeated. By any thread: `collect` and `restart` then raise."""
