"""Workers that only note who holds which experts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.machine.machine_look import MachineFacts
from numoe.coordinator.profiling.taking import Profiling, RunningProfile
from numoe.coordinator.workers.placement import Placement, WorkerPlacement
from numoe.coordinator.workers.step_channel import StepChannel
from numoe.model.gguf.kv_types import KvTypes
from numoe.model.machine.topology import Node, Topology
from numoe.model.planning.expert_owners import ExpertOwners, share_experts
from numoe.model.planning.moves import ExpertMove
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.protos.errors import ServiceError
from numoe.protos.profile import Profile
from tests.coordinator.engine.fake_executor import FakeExecutor
from tests.tiny_model import TinyShape, tiny_spec

SPEC = tiny_spec(TinyShape())
MACHINE = Topology((Node(0, ((0,), (1,)), 1 << 34, 1 << 34, 1 << 34, (10,), package=0),))
PLAN = make_plan(SPEC, MACHINE, PlanOptions(workers=2))
SHARDS = PLAN.shards


class Holders(FakeExecutor):
    """Workers that only note who holds what; the first layer's first two experts are popular."""

    def __init__(self, experts: tuple[ExpertOwners | None, ...]) -> None:
        super().__init__(range(3))
        self.now, self.faults = list(experts), 0
        self.moves: list[ExpertMove] = []
        self.hits = np.zeros((SPEC.layers, SPEC.experts), np.int64)
        self.pids = [4242, 4243]
        self.channel: StepChannel | None = None

    def placement(self) -> Placement:
        workers = tuple(WorkerPlacement(shard, "ready", pid) for shard, pid in zip(SHARDS, self.pids, strict=True))
        return Placement("expert", workers, tuple(self.now), ready_at=1000.0)

    def machines(self, own: MachineFacts) -> tuple[MachineFacts, ...]:
        return (own,)

    def experts(self) -> tuple[ExpertOwners | None, ...]:
        return tuple(self.now)

    def counters(self) -> list[np.void]:
        return []

    def expert_hits(self) -> NDArray[np.int64]:
        return self.hits.copy()

    def begin_profile(self, level: int) -> Profiling:
        """Of an arena in which nobody ever runs a step."""
        assert self.channel is not None, "a test that profiles opens an arena first"
        profiling = Profiling(self.channel, SPEC, PLAN, KvTypes())
        profiling.begin(level)
        return profiling

    def end_profile(self, profiling: RunningProfile, peak: Callable[[int], float], peak_source: str) -> Profile:
        assert isinstance(profiling, Profiling)
        return profiling.end(peak, peak_source)

    def count(self, tokens: int) -> None:
        self.hits[:, 0] += tokens
        self.hits[:, 1] += tokens

    def change_hosts(self, wanted: str) -> tuple[str, ...]:
        raise AssertionError("nobody has them change hosts")

    def move_expert(self, move: ExpertMove) -> None:
        if self.faults:
            self.faults -= 1
            raise ServiceError("a worker was lost")
        owners = self.now[move.layer]
        assert owners is not None
        self.now[move.layer] = move.applied(owners)
        self.moves.append(move)


def whole() -> Holders:
    return Holders((share_experts([1.0] * SPEC.experts, 2),) * SPEC.layers)
