"""A pipeline of several hosts' groups in processes that are there already, joined by real streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.machine.machine_look import MachineFacts, MachineLook
from numoe.coordinator.settings import EngineSettings, WorkerSettings
from numoe.coordinator.stages.link import Wire
from numoe.coordinator.stages.pipeline import Hosts, Pipeline
from numoe.coordinator.stages.server import StageServer
from numoe.coordinator.stages.step_messages import largest_message
from numoe.coordinator.workers.group import HostGroup
from numoe.coordinator.workers.placement import Placement
from numoe.model.architectures.spec import ModelSpec, stage_of
from numoe.model.planning.moves import ExpertMove
from numoe.protos.messages import Step, StepResult
from numoe.protos.profile import Profile
from tests.coordinator.stages.fake_hosts import FakeLoader
from tests.system.groups import PATIENCE_SECONDS, RecordedWorkers, TinyModel, WorkerProcesses


@dataclass(frozen=True, slots=True)
class HostOf:
    """One host of a test: its layers up to one, and who runs them."""

    stop: int
    processes: WorkerProcesses
    workers: int
    threads: int
    first: int = 0  # of the processes that it has


class GroupHost:
    """Implements StageHost over a group of this process."""

    def __init__(self, name: str, spec: ModelSpec, recorded: RecordedWorkers, wire: Wire) -> None:
        self.name, self.spec, self.recorded = name, spec, recorded
        self.group: HostGroup = recorded.workers
        self.server = StageServer("127.0.0.1:0", name, spec, recorded, wire, PATIENCE_SECONDS)

    @property
    def address(self) -> str:
        return self.server.address

    def restore(self, look: Callable[[], None]) -> None:
        raise AssertionError("nothing is lost here")

    def placement(self) -> Placement:
        return self.group.placement()

    def machine(self) -> MachineFacts:
        return MachineLook(WorkerSettings()).look(self.group.placement().workers)

    def counters(self) -> list[np.void]:
        return self.group.counters()

    def expert_hits(self) -> NDArray[np.int64]:
        return self.group.expert_hits()

    def expert_counts(self) -> NDArray[np.int64]:
        return self.group.expert_counts()

    def move_expert(self, move: ExpertMove) -> None:
        self.group.move_expert(move)

    def begin_profile(self, level: int) -> None:
        raise AssertionError("nobody profiles it here")

    def end_profile(self) -> Profile:
        raise AssertionError("none was begun")

    def close_profile(self) -> None:
        raise AssertionError("none was begun")

    def close(self) -> None:
        self.server.close()
        self.group.close()


class RecordedPipeline(RecordedWorkers):
    """As RecordedWorkers, of several hosts: the last one draws."""

    def __init__(self, pipeline: Pipeline, last: RecordedWorkers) -> None:
        super().__init__(last.workers)
        self.pipeline, self.logits, self.chunks = pipeline, last.logits, last.chunks

    @property
    def depth(self) -> int:
        return self.pipeline.depth

    @property
    def store(self) -> None:
        return self.pipeline.store

    @property
    def slot_files(self) -> None:
        return self.pipeline.slot_files

    def submit(self, step: Step, hidden: NDArray[np.float32] | None = None) -> None:
        self.before_step(step.number)
        self.pipeline.submit(step)

    def collect(self, timeout_seconds: float) -> StepResult:
        return self.pipeline.collect(timeout_seconds)

    def check(self) -> None:
        self.pipeline.check()

    def restart(self, look: Callable[[], None]) -> None:
        self.pipeline.restart(look)

    def close(self) -> None:
        self.pipeline.close()


def load_hosts(model: TinyModel, hosts: Sequence[HostOf], engine: EngineSettings) -> RecordedPipeline:
    """The model over hosts, each of which loads its layers; the groups before must be closed."""
    cuts = [0, *(host.stop for host in hosts)]
    specs = [stage_of(model.spec, *layers) for layers in pairwise(cuts)]
    groups = [
        host.processes.load(model, host.workers, host.threads, engine, spec=spec, first=host.first)
        for spec, host in zip(specs, hosts, strict=True)
    ]
    wire = Wire("version", "service", largest_message(groups[0].limits, model.spec.width))
    others = [
        GroupHost(f"host{number}", spec, group, wire)
        for number, (spec, group) in enumerate(zip(specs[1:], groups[1:], strict=True), 1)
    ]
    pipeline = Pipeline(Hosts(groups[0].workers, tuple(others), wire), PATIENCE_SECONDS, FakeLoader())
    pipeline.open()
    return RecordedPipeline(pipeline, groups[-1])
