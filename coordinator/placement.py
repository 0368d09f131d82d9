"""Where the model lies, as the launcher reports it and GetPlacement shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from numoe.coordinator.executor import StepExecutor
from numoe.model.plan import Shard

WorkerState = Literal["starting", "loading", "ready", "lost"]


@dataclass(frozen=True, slots=True)
class WorkerPlacement:
    """One worker and the shard it owns."""

    shard: Shard
    state: WorkerState
    pid: int | None = None  # None: not started yet, or lost
    weight_bytes: int | None = None  # None: not loaded yet
    kv_bytes: int | None = None  # None: not set aside yet


@dataclass(frozen=True, slots=True)
class Placement:
    """All workers of the model, in the order of their ids."""

    split: str
    workers: tuple[WorkerPlacement, ...]


class Workers(StepExecutor, Protocol):
    """What the launcher starts: the executor of the engine's steps, which also knows where everything lies."""

    def placement(self) -> Placement:
        """As of now; may be called from any thread, while loading and restarting too."""


class LoadProgress(Protocol):
    """Told by the launcher, often, from any thread; what it raises ends the loading, and with it every worker."""

    def __call__(self, phase: str, done: int, total: int) -> None:
        """`phase` for people, e.g. "loading"; done of total bytes, or steps; total 0 where nobody knows."""
