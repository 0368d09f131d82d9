"""Where the model lies, as the launcher reports it and GetPlacement shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from numoe.model.plan import Shard

WorkerState = Literal["starting", "loading", "ready", "lost"]


@dataclass(frozen=True, slots=True)
class WorkerPlacement:
    """One worker and the shard it owns."""

    shard: Shard
    state: WorkerState
    pid: int | None = None  # None: not started yet, or lost
    threads: int = 0
    weight_bytes: int | None = None  # None: not loaded yet
    kv_bytes: int | None = None  # None: not set aside yet


@dataclass(frozen=True, slots=True)
class Placement:
    """All workers of the model, in the order of their ids."""

    split: str
    workers: tuple[WorkerPlacement, ...]


class PlacementSource(Protocol):
    """What the launcher offers beside being a StepExecutor."""

    def placement(self) -> Placement: ...
