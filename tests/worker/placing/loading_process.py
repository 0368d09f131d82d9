"""A worker that a test gives one order after another, and what became of each; the test's end of loading_worker.py.

Starting a bound process takes seconds, most of them imports; loading a tiny shard takes none.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from numoe.coordinator.workers.step_channel import StepChannel
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.kv_types import HALF_FLOATS
from numoe.model.planning.assignment import WorkerAssignment, arena_policy, layout_of
from numoe.model.planning.plan import ShardPlan
from numoe.protos.locality import Locality
from numoe.protos.messages import StepLimits

ROOT = Path(__file__).parents[3]
END_SECONDS = 60.0  # of a killed process
STEP_SECONDS = 120.0  # a step takes milliseconds, and where everything is emulated and shared still less than this


class LoadingProcess:
    """One worker process."""

    def __init__(self, memory: int | str, cpus: str, refused: Sequence[int] = ()) -> None:
        """Bound to memory and CPUs, see binding.py; `refused` are system calls that the kernel refuses to it."""
        binding = [sys.executable, "-m", "numoe.worker.placing.binding", str(memory), cpus]
        if refused:
            binding = [sys.executable, "-m", "tests.worker.placing.refusing", ",".join(map(str, refused)), *binding]
        command = [*binding, sys.executable, "-m", "tests.worker.placing.loading_worker"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    @property
    def pid(self) -> int:
        return self._process.pid

    def load(self, assignment: WorkerAssignment) -> Locality | str:
        """Become the ordered shard; a text where it is refused."""
        self.send(assignment)
        return self.answer()

    def send(self, assignment: WorkerAssignment | None) -> None:
        """Ask for a shard, or with None where the last one is now."""
        assert self._process.stdin is not None
        pickle.dump(assignment, self._process.stdin)
        self._process.stdin.flush()

    def answer(self) -> Locality | str:
        """To what was sent."""
        assert self._process.stdout is not None
        answer: Locality | str = pickle.load(self._process.stdout)
        return answer

    def look(self) -> Locality:
        """Where the last shard's memory is now."""
        self.send(None)
        found = self.answer()
        assert isinstance(found, Locality)
        return found

    def close(self) -> None:
        """End it. Raises TimeoutExpired where the kernel cannot, see tests/hung.py."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait(END_SECONDS)
        self._process.stdin.close()
        self._process.stdout.close()


@contextmanager
def loading_process(memory: int | str, cpus: str, refused: Sequence[int] = ()) -> Iterator[LoadingProcess]:
    """One for the length of a block."""
    process = LoadingProcess(memory, cpus, refused)
    try:
        yield process
    finally:
        process.close()


class Group:
    """The orders of a plan's workers and the arena that they share; its threads end with `close`."""

    def __init__(self, spec: ModelSpec, plan: ShardPlan, limits: StepLimits, keeper: Path | None = None) -> None:
        self.layout = layout_of(spec, plan, limits)
        self.channel = StepChannel(self.layout, plan.experts, map(arena_policy, plan.shards))
        self._spec, self._plan, self._limits, self._keeper = spec, plan, limits, keeper

    def assignment(self, worker: int, allow_remote_memory: bool = False) -> WorkerAssignment:
        """What a worker is to become."""
        channel = os.getpid(), self.channel.descriptor
        assignment = WorkerAssignment(
            worker, self._spec, self._plan, self._limits, HALF_FLOATS, *channel, 100, STEP_SECONDS
        )
        return replace(assignment, allow_remote_memory=allow_remote_memory, keeper=self._keeper)

    def close(self) -> None:
        self.channel.abort()
        self.channel.close()


@contextmanager
def group(spec: ModelSpec, plan: ShardPlan, limits: StepLimits, keeper: Path | None = None) -> Iterator[Group]:
    """One for the length of a block; `keeper`: the socket of who keeps the weights."""
    made = Group(spec, plan, limits, keeper)
    try:
        yield made
    finally:
        made.close()
