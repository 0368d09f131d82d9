"""Worker processes that become one shard after another, and a record of the logits they draw from.

Starting a worker takes seconds, most of them imports; loading a tiny shard takes none. So one group is started through
Ray as in service, and its processes are then given one order after another: other models, other plans, other arenas.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import ray
from numpy.typing import NDArray

from numoe.coordinator.engine.executor import BlockStore, SlotStore
from numoe.coordinator.machine.model_file import read_model
from numoe.coordinator.settings import EngineSettings, ModelSettings, ServeSettings, WorkerSettings
from numoe.coordinator.workers.actors import KERNEL_VARIABLES, ActorGroup
from numoe.coordinator.workers.group import HostGroup
from numoe.coordinator.workers.starting import start_workers
from numoe.coordinator.workers.watching.processes import WatchedProcesses
from numoe.model.architectures.spec import ModelSpec
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.plan import ShardPlan, Spread
from numoe.model.planning.splitting import PlanOptions, Shares, cut_anew, make_plan
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.messages import Step, StepLimits, StepResult
from tests.forward import Forward
from tests.tiny_model import TinyShape, Weights, write_tiny_model

MOST_LOADS = 60  # of a process: some 3 GB
PATIENCE_SECONDS = 60.0  # for a step of a tiny model; a test that waits longer has failed


@dataclass(frozen=True, slots=True)
class TinyModel:
    """A file, what it holds, and what was read from it."""

    path: Path
    weights: Weights
    spec: ModelSpec
    tokenizer: Tokenizer

    @property
    def forward(self) -> Forward:
        return Forward(self.weights, self.spec)


def tiny_model(path: Path, shape: TinyShape) -> TinyModel:
    weights = write_tiny_model(path, shape)
    spec, tokenizer, _ = read_model(path)
    return TinyModel(path, weights, spec, tokenizer)


def plan_of(spec: ModelSpec, workers: int, threads: int, spread: Spread | None = None) -> ShardPlan:
    return make_plan(spec, read_topology(), PlanOptions(workers, threads, spread=spread))


class WorkerProcesses:
    """Processes started seldom, as many as one test needs at most.

    They start anew now and then: an exception that leaves compiled code, which is how a group's threads end, keeps the
    arrays that the code was given (Numba gives them back on return only).
    """

    def __init__(self, model: TinyModel, count: int) -> None:
        self._model, self._count = model, count
        self._environment = {name: os.environ[name] for name in KERNEL_VARIABLES if name in os.environ}
        self._start()

    def _start(self) -> None:
        model, count = self._model, self._count
        self._loads = 0
        self._first = start_workers(
            spec=model.spec,
            plan=plan_of(model.spec, count, 1),
            settings=ServeSettings(engine=EngineSettings(context_tokens=64)),
            progress=lambda phase, done, total: None,
        )
        started = self._first._sound()
        self.handles, self.pids = started.actors.handles, started.actors.pids
        self.bindings = [report.locality.binding for report in started.reports]
        started.channel.abort()  # its threads end, the processes stay

    def load(
        self,
        model: TinyModel,
        workers: int,
        threads: int,
        engine: EngineSettings,
        experts: Sequence[ExpertOwners | None] = (),
        shares: Shares | None = None,
        spread: Spread | None = None,
        packed: Path | None = None,
        spec: ModelSpec | None = None,
        first: int = 0,
    ) -> RecordedWorkers:
        """Make `workers` of the processes, from the `first` on, a group; the group before must be closed.

        Args:
            experts: who holds the whole experts of each layer; none: all layers are split by row.
            shares: what part of all else each worker owns; None: equal ones.
            spread: how one worker lies that is not bound; None: all are.
            packed: a folder of panels to load, of which the model was read; None: its file.
            spec: the layers of the model to load; None: all.
        """
        spec = spec or model.spec
        self._loads += 1
        if self._loads > MOST_LOADS and first == 0:  # else some of the processes are a host of the same test already
            self.close()
            with pytest.MonkeyPatch.context() as environment:
                for name, value in self._environment.items():
                    environment.setenv(name, value)
                self._start()
        shards = plan_of(spec, workers, threads, spread)
        shards = replace(shards, experts=tuple(experts) or shards.experts)
        shards = shards if shares is None else cut_anew(shards, spec, shares)
        # Bound to the CPUs that they were started for.
        workers_settings, from_folder = WorkerSettings(allow_remote_memory=True), ModelSettings(packed=packed)
        settings = ServeSettings(engine=engine, workers=workers_settings, model=from_folder)
        group = _ReusedWorkers(spec, shards, settings, self, first)
        group.start(lambda phase, done, total: None)
        return RecordedWorkers(group)

    def dispatched(self) -> list[list[str]]:
        """The code that each process's NumPy chose for this CPU, beside what runs on every one."""

        def ask(_: object) -> list[str]:  # sent by value: the processes do not see the tests
            from numpy._core import _multiarray_umath as numpy_core  # type: ignore[attr-defined]  # not in the stubs

            features = numpy_core.__cpu_features__
            return [name for name in numpy_core.__cpu_dispatch__ if features[name]]

        return [ray.get(handle.__ray_call__.remote(ask)) for handle in self.handles]

    def close(self) -> None:
        self._first.close()


class _ReusedActors(ActorGroup):
    """Some of the processes that are there already."""

    def __init__(self, plan: ShardPlan, processes: WorkerProcesses, first: int) -> None:
        super().__init__(plan)
        own = slice(first, first + len(plan.shards))
        self.handles = processes.handles[own]
        self._processes = WatchedProcesses(processes.pids[own])

    def start(self, look: Callable[[], None]) -> None:
        """Nothing: the processes run."""

    def give_back(self) -> None:
        """Nothing: the processes stay."""

    def end(self) -> None:
        self._processes.close()


class _ReusedWorkers(HostGroup):
    """A group in processes that are there already and stay; all but that is the product's own code."""

    def __init__(
        self, spec: ModelSpec, shards: ShardPlan, settings: ServeSettings, processes: WorkerProcesses, first: int
    ) -> None:
        super().__init__(spec, shards, settings, node=None)
        self._processes, self._first = processes, first

    def _new_actors(self) -> ActorGroup:
        return _ReusedActors(self._plan, self._processes, self._first)


class RecordedWorkers:
    """A StepExecutor that keeps the logits each token was drawn from, by (sampling seed, position)."""

    def __init__(self, workers: HostGroup) -> None:
        self.logits: dict[tuple[int, int], NDArray[np.float32]] = {}  # [V]
        self.chunks: list[tuple[int, ...]] = []  # per step the tokens of each chunk
        self.before_step: Callable[[int], None] = lambda number: None  # runs in the engine's thread
        self.workers = workers
        self._step = Step(0, ())

    @property
    def limits(self) -> StepLimits:
        return self.workers.limits

    @property
    def depth(self) -> int:
        return self.workers.depth

    @property
    def store(self) -> BlockStore | None:
        return self.workers.store

    @property
    def slot_files(self) -> SlotStore | None:
        return self.workers.slot_files

    def submit(self, step: Step, hidden: NDArray[np.float32] | None = None) -> None:
        self.before_step(step.number)
        self._step = step
        self.workers.submit(step, hidden)

    def collect(self, timeout_seconds: float) -> StepResult:
        result = self.workers.collect(timeout_seconds)
        drawn = [chunk for chunk in self._step.chunks if chunk.sampling is not None]
        if drawn and result.token_ids.size:
            rows = iter(self.workers.logits())
            for chunk in drawn:
                assert chunk.sampling is not None
                end = chunk.first_position + len(chunk.token_ids) + 1
                for position, row in zip(range(end - chunk.draws, end), rows, strict=False):
                    self.logits[chunk.sampling.seed, position] = row.copy()
            assert next(rows, None) is None
        self.chunks.append(tuple(len(chunk.token_ids) for chunk in self._step.chunks))
        return result

    @property
    def size(self) -> int:
        return self.workers.size

    def hidden(self) -> NDArray[np.float32]:
        return self.workers.hidden()

    def check(self) -> None:
        self.workers.check()

    def restart(self, look: Callable[[], None]) -> None:
        self.workers.restart(look)

    def close(self) -> None:
        self.workers.close()
