"""Where the model lies: what the workers report and GetPlacement shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from numoe.coordinator.engine.executor import StepExecutor
from numoe.coordinator.machine.machine_look import MachineFacts
from numoe.coordinator.profiling.taking import RunningProfile
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.moves import ExpertMove
from numoe.model.planning.plan import Range, Shard
from numoe.protos.locality import VERIFIED, Locality
from numoe.protos.profile import Profile

WorkerState = Literal["starting", "loading", "ready", "stuck", "lost"]

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WorkerPlacement:
    """One worker and the shard it owns."""

    shard: Shard
    state: WorkerState
    pid: int | None = None  # None: not started yet, or lost
    weight_bytes: int | None = None  # None: not loaded yet
    kv_bytes: int | None = None  # None: not set aside yet
    locality: Locality | None = None  # as found when it had loaded, and of experts, since; None: not yet
    host: str = ""  # the name of another host that it runs on; "": on this one
    layers: Range | None = None  # of the model, that its host runs; None: all


@dataclass(frozen=True, slots=True)
class Placement:
    """All workers of the model, in the order of their ids."""

    split: str
    workers: tuple[WorkerPlacement, ...]
    experts: tuple[ExpertOwners | None, ...] = ()  # [L] who holds whole experts; None: split by row
    ready_at: float | None = None  # Unix time since when all are ready; None: they are not

    @property
    def binding(self) -> str:
        """How sure the workers' placement is, e.g. "cpus+memory, verified"; each level once where they differ."""
        levels = [worker.locality.level for worker in self.workers if worker.locality is not None]
        return " / ".join(dict.fromkeys(levels)) or "none"


class Workers(StepExecutor, Protocol):
    """An executor of the engine's steps that also knows where everything lies.

    The methods that it adds may be called from any thread.
    """

    def placement(self) -> Placement:
        """As of now, while loading and restarting too."""

    def machines(self, own: MachineFacts) -> tuple[MachineFacts, ...]:
        """Those of all hosts, as they told last, in the order of their workers; `own`: this host's, as seen now."""

    def experts(self) -> tuple[ExpertOwners | None, ...]:
        """[L] who holds the experts now; None where workers hold rows of every one."""

    def counters(self) -> list[np.void]:
        """Live COUNTERS of protos/arena.py, as each worker writes them; none while there are no workers."""

    def expert_hits(self) -> NDArray[np.int64]:
        """[L, E] tokens routed to each expert since the workers started."""

    def begin_profile(self, level: int) -> RunningProfile:
        """Has threads note of the steps to come what the level says (protos/profile.py); raises ServiceError."""

    def end_profile(self, profiling: RunningProfile, peak: Callable[[int], float], peak_source: str) -> Profile:
        """What they noted since; `peak`: bytes per second of a NUMA node. Raises ServiceError, with profiling open."""

    def change_hosts(self, wanted: str) -> tuple[str, ...]:
        """Has the layers shared out over other hosts, named as --hosts does; returns which. Soon after, the workers end
        with HostsChanged, and what was open goes on once they have loaded. Raises PlanError or ServiceError."""

    def move_expert(self, move: ExpertMove) -> None:
        """Moves one expert between two steps; raises PlanError or ServiceError, with the service as before."""


def log_binding(shard: Shard, found: Locality) -> None:
    """Log how sure it is that a worker's memory and threads are where they should be; loud where it is not."""
    at = {"node": shard.node} if shard.spread is None else {"nodes": shard.memory_nodes}
    facts = {"worker": shard.worker, **at, "binding": found.level}
    if found.moved_bytes:
        facts["moved_bytes"] = found.moved_bytes
    if found.level.endswith(VERIFIED):
        _log.info("worker_bound", **facts)
    elif shard.spread is not None and shard.spread.memory == "any":
        _log.info("worker_not_bound", **facts, weight_bytes=dict(found.weights))
    else:
        why = found.problem or "the kernel does not tell where pages are, or was not asked to bind them"
        _log.warning("worker_binding_unsure", **facts, error=why)
