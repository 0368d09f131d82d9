"""Hosts in one process: real streams between them, and workers that count instead of computing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.machine.machine_look import Host, MachineFacts, Threads
from numoe.coordinator.stages.link import Wire
from numoe.coordinator.stages.pipeline import HostGone, Hosts, Loader, Pipeline
from numoe.coordinator.stages.server import StageServer
from numoe.coordinator.workers.expert_tally import ExpertTally
from numoe.coordinator.workers.placement import Placement, WorkerPlacement
from numoe.model.architectures.reading import model_spec
from numoe.model.architectures.spec import ModelSpec, stage_of
from numoe.model.gguf.model_file import open_gguf
from numoe.model.planning.moves import ExpertMove
from numoe.model.planning.plan import Range, Shard
from numoe.protos.errors import SetupError, WorkerLost
from numoe.protos.messages import NOWHERE, Chunk, Sampling, Step, StepLimits, StepResult
from numoe.protos.profile import Profile
from tests.coordinator.profiling.made_up import made_up_profile
from tests.tiny_model import TinyShape, write_tiny_model

LIMITS = StepLimits(step_tokens=16, sequences=4, context_tokens=128, kv_blocks=8, block_positions=64)
WIRE = Wire("1.2", "service", 1 << 20)
SECONDS = 30.0
Hidden = NDArray[np.float32]


def tiny_spec(folder: Path, layers: int = 3) -> ModelSpec:
    path = folder / "tiny.gguf"
    write_tiny_model(path, TinyShape(layers=layers))
    return model_spec(open_gguf(path))


def machine_facts(name: str, workers: Iterable[int]) -> MachineFacts:
    host = Host(name, "a chip", "madvise", "as told", (), told_at=7.0)
    return MachineFacts(host, {worker: Threads(9, worker) for worker in workers}, ())


class FakeGroup:
    """Implements StepGroup, and what of HostGroup a pipeline asks: every layer adds one to all values of a row."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec, self.limits, self.size = spec, LIMITS, 2
        self.steps: list[Step] = []
        self.restarts, self.closed = 0, 0
        self.before_collect: Callable[[Step], None] = lambda step: None
        self.lost: WorkerLost | None = None
        self.moves: list[ExpertMove] = []
        self.profiles: list[str] = []
        self._hidden = np.zeros((0, spec.width), np.float32)

    def submit(self, step: Step, hidden: Hidden | None = None) -> None:
        self.check()
        self.steps.append(step)
        tokens = np.concatenate([chunk.token_ids for chunk in step.chunks])
        rows = np.repeat(tokens[:, None].astype(np.float32), self.spec.width, 1) if hidden is None else hidden
        self._hidden = rows + np.float32(self.spec.layers)

    def collect(self, timeout_seconds: float) -> StepResult:
        step = self.steps[-1]
        self.before_collect(step)
        self.check()
        ends = np.cumsum([len(chunk.token_ids) for chunk in step.chunks]) - 1
        drawn = [row for row, chunk in zip(ends, step.chunks, strict=True) if chunk.sampling is not None]
        tokens = self._hidden[drawn if self.spec.draws else [], 0]
        experts = np.array([self.spec.layers * len(chunk.token_ids) for chunk in step.chunks])
        not_finite = 1 if step.checked and self.spec.first_layer > 0 else NOWHERE
        return StepResult(step.number, tokens.astype(np.int32), -tokens, experts, 0.001, not_finite)

    def hidden(self) -> Hidden:
        return self._hidden

    def check(self) -> None:
        if self.lost is not None:
            raise self.lost

    def restart(self, look: Callable[[], None]) -> None:
        look()
        self.restarts, self.lost = self.restarts + 1, None

    def placement(self) -> Placement:
        one, rows = Range(0, 1), Range(0, 32)
        shards = [Shard(worker, 0, (0,), one, one, rows, rows, rows) for worker in range(2)]
        workers = tuple(WorkerPlacement(shard, "ready", pid=7) for shard in shards)
        return Placement("tensor", workers, (None,) * self.spec.layers, ready_at=float(self.spec.first_layer))

    def machine(self) -> MachineFacts:
        return machine_facts(f"machine of layer {self.spec.first_layer}", workers=range(2))

    def counters(self) -> list[np.void]:
        return []

    def expert_hits(self) -> NDArray[np.int64]:
        return np.full((self.spec.layers, 8), self.spec.first_layer)

    def expert_counts(self) -> NDArray[np.int64]:
        tokens = sum(len(chunk.token_ids) for step in self.steps for chunk in step.chunks)
        return np.full((self.spec.layers, self.spec.experts), tokens)

    def move_expert(self, move: ExpertMove) -> None:
        self.moves.append(move)

    def begin_profile(self, level: int) -> FakeProfile:
        self.check()
        self.profiles.append("begun")
        return FakeProfile(self)

    def end_profile(self, *told: object) -> Profile:
        self.profiles.append("ended")
        return replace(made_up_profile(), layers=self.spec.layers)

    def close_profile(self) -> None:
        self.profiles.append("closed")

    def close(self) -> None:
        self.closed += 1
        self.lost = self.lost or WorkerLost("closed")


@dataclass(frozen=True, slots=True)
class FakeProfile:
    """Implements RunningProfile."""

    group: FakeGroup
    steps: int = 0

    def close(self) -> None:
        self.group.close_profile()


class FakeHost(FakeGroup):
    """Implements StageHost too: a group behind a server."""

    def __init__(self, name: str, spec: ModelSpec, wire: Wire = WIRE, address: str = "127.0.0.1:0") -> None:
        super().__init__(spec)
        self.name, self.gone = name, False
        self.server = StageServer(address, name, spec, self, wire, SECONDS)

    @property
    def address(self) -> str:
        return self.server.address

    def restore(self, look: Callable[[], None]) -> None:
        if self.gone:
            raise HostGone(f"host {self.name} has been gone for 60 s")
        self.server.end_session()
        if self.lost is not None:
            self.restart(look)

    def close(self) -> None:
        super().close()
        self.server.close()


class FakeLoader:
    """Implements Loader: loads what it is given, once each, and raises what is no hosts."""

    def __init__(self, *loaded: Hosts | Exception) -> None:
        self.loaded = list(loaded)
        self.ended = 0

    def load_anew(self, look: Callable[[], None]) -> Hosts:
        look()
        found = self.loaded.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def want(self, wanted: str) -> tuple[str, ...]:
        if wanted == "nobody":
            raise SetupError("--hosts is nobody")
        return tuple(wanted.split(","))

    def end(self) -> None:
        self.ended += 1


@contextmanager
def fake_pipeline(
    spec: ModelSpec, cuts: Sequence[int], loader: Loader | None = None, tally: ExpertTally | None = None
) -> Iterator[tuple[Pipeline, list[FakeGroup]]]:
    """The layers of `spec` cut there, opened; and the groups of all hosts."""
    first, *rest = [stage_of(spec, *layers) for layers in pairwise(cuts)]
    own, hosts = FakeGroup(first), [FakeHost(f"host{number}", part) for number, part in enumerate(rest, 1)]
    loaded = Hosts(own, tuple(hosts), WIRE, "host0")  # type: ignore[arg-type]  # as much of a group as it uses
    pipeline = Pipeline(loaded, SECONDS, loader or FakeLoader(), tally)
    try:
        pipeline.open()
        yield pipeline, [own, *hosts]
    finally:
        pipeline.close()
        assert {own.closed, *(host.closed for host in hosts)} == {1}


def step_of(number: int, *prompts: Sequence[int], checked: bool = False) -> Step:
    chunks = [
        Chunk(0, np.array(ids, np.int32), np.array([row], np.int32), Sampling(seed=2**63 + 5))
        for row, ids in enumerate(prompts)
    ]
    return Step(number, tuple(chunks), checked)


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)
