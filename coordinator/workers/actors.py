"""The Ray actors of a group, one per shard: started bound to their nodes, loaded, watched, ended.

Ray starts, places and ends the processes. A worker's death shows on its pidfd at once.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from numoe.coordinator.cluster import ray_node  # noqa: F401  sets what Ray reads when it is imported

# isort: split
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from numoe.coordinator.cluster.ray_calls import call_apart, inside_ray
from numoe.coordinator.programs import python_command
from numoe.coordinator.workers.watching.processes import WatchedProcesses
from numoe.model.planning.assignment import WorkerAssignment, binding_of
from numoe.model.planning.plan import Shard, ShardPlan
from numoe.protos.errors import SetupError, WorkerLost
from numoe.protos.foreign_text import one_line
from numoe.protos.last_words import FAILED_LINE

POLL_SECONDS = 0.1  # between two looks at how far loading is
HERE = 0.001  # of what Ray has 1.0 of on each host, named after it: workers start where their arena is
MOST_TOLD_BYTES = 4096
# Ray keeps for itself what a process that it starts says before it can speak to Ray, and starts it anew, for ever.
TELLING = 'echo "pid $$" >> "$0"; exec "$@" 2>> "$0"'
# What faulthandler calls the end of a process, and what it is of.
DEATHS = {
    "Fatal Python error: Bus error": "a bus error: a mapped file was cut off or cannot be read, or memory failed",
    "Fatal Python error: Illegal instruction": "an illegal instruction: this CPU lacks what the kernels are made of",
    "Fatal Python error: Segmentation fault": "a segmentation fault",
    "Fatal Python error: Floating-point exception": "a floating-point exception",
    "Fatal Python error: Aborted": "an abort",
}
# What chooses the code that computes, ours and NumPy's, and where it is kept.
KERNEL_VARIABLES = ("NUMOE_ISA", "XDG_CACHE_HOME", "NPY_DISABLE_CPU_FEATURES")


class ActorGroup:
    """The worker processes of one plan, from their start to their end; used by one thread at a time."""

    def __init__(self, plan: ShardPlan, code: Sequence[str] = ()) -> None:
        """`code`: what they will run tiles of, as worker/running/warm.py names it."""
        self.handles: list[Any] = []  # of WorkerActor, worker/running/actor.py
        self.over = False  # it was ended, and who waits for it waits in vain
        self._shards, self._code = plan.shards, code
        self._placement: Any = None
        self._processes = WatchedProcesses(())
        self._told: list[IO[bytes]] = []  # [workers] what its process told before it spoke to Ray

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids in the order of the workers; empty until all run."""
        return self._processes.pids

    def start(self, look: Callable[[], None]) -> None:
        """Start a process per shard, bound to its node and CPUs; what did start is ended by `give_back`.

        Calls `look` now and then; an exception that it raises ends the starting.

        Raises:
            SetupError: a worker cannot run where it is to.
            WorkerLost: a worker died.
        """
        here = {f"node:{ray.util.get_node_ip_address()}": HERE}  # type: ignore[no-untyped-call]
        bundles = [{f"numa{shard.node}": 1.0, **here} for shard in self._shards]
        self._placement = call_apart(lambda: placement_group(bundles, strategy="STRICT_PACK"), look)
        for shard in self._shards:
            self._told.append(os.fdopen(os.memfd_create("numoe-start"), "rb", buffering=0))
            told = _path_of(self._told[-1])
            self.handles.append(call_apart(partial(_start_actor, shard, self._placement, told), look))
        files = map(_path_of, self._told)
        starting = [handle.begin.remote(os.getpid(), path) for handle, path in zip(self.handles, files, strict=True)]
        _await(starting, lambda: self._look_at_start(look))
        self._processes = WatchedProcesses([_result(worker, "starting", one) for worker, one in enumerate(starting)])

    def prepare(self, look: Callable[[], None]) -> None:
        """Have every worker load the code that it will run; `look` as in `start`. Raises WorkerLost: one died."""
        preparing = [handle.prepare.remote(self._code) for handle in self.handles]
        _await(preparing, look)
        for worker, reference in enumerate(preparing):
            _result(worker, "starting", reference)

    def load(self, assignments: Sequence[WorkerAssignment], look: Callable[[], None]) -> list[Any]:
        """Have every worker load its shard; returns their ShardReports.

        Calls `look` now and then, and at the end; an exception that it raises ends the loading.

        Raises:
            SetupError: a worker cannot become what its assignment says.
            WorkerLost: a worker died.
        """
        loading = [handle.load.remote(given) for handle, given in zip(self.handles, assignments, strict=True)]
        _await(loading, look)
        return [_report(worker, reference) for worker, reference in enumerate(loading)]

    def ask(self, look: Callable[[], None], method: str, *arguments: object) -> list[Any]:
        """What every worker answers to a call about KV blocks; `look` as in `load`. Raises WorkerLost: one died."""
        asked = [getattr(handle, method).remote(*arguments) for handle in self.handles]
        _await(asked, look)
        return [_result(worker, "reading or writing KV blocks", one) for worker, one in enumerate(asked)]

    def _look_at_start(self, look: Callable[[], None]) -> None:
        for worker, told in enumerate(self._told):
            if why := failure(os.pread(told.fileno(), MOST_TOLD_BYTES, 0).decode(errors="replace")):
                raise SetupError(f"worker {worker} did not start: {why}")
        look()

    def ended(self) -> list[int]:
        """The workers whose processes have ended; returns at once."""
        return self._processes.ended()

    def why(self, worker: int) -> str:
        """What a worker's process told of its end, to follow "died"; "": nothing."""
        try:
            descriptor = self._told[worker].fileno()
        except (ValueError, IndexError):  # closed, as the group was ended by another thread, or started by others
            return ""
        first = max(0, os.fstat(descriptor).st_size - MOST_TOLD_BYTES)
        return cause_of_death(os.pread(descriptor, MOST_TOLD_BYTES, first).decode(errors="replace"))

    def give_back(self) -> None:
        """Tell Ray that the group is over, so that another one finds room."""
        for handle in self.handles:
            ray.kill(handle, no_restart=True)
        if self._placement is not None:
            remove_placement_group(self._placement)

    def end(self) -> None:
        """End every process and wait until it is gone.

        Ray asks first where it ends an actor: a stopped worker, which cannot hear it, lived over 2 s longer.
        """
        self.over = True
        self._processes.kill()
        for told in self._told:
            told.close()


def _path_of(file: IO[bytes]) -> str:
    """By which other processes of this user may open a file without a name."""
    return f"/proc/{os.getpid()}/fd/{file.fileno()}"


def cause_of_death(told: str) -> str:
    """What killed a worker whose last words were these, to follow "died"; "": they do not say."""
    for words, cause in DEATHS.items():
        if words in told:
            return f" of {cause}"
    own = [line.removeprefix(FAILED_LINE) for line in told.splitlines() if line.startswith(FAILED_LINE)]
    return f": {one_line(own[-1], 300)}" if own else ""


def failure(told: str) -> str | None:
    """Why a process ended that told this, in a line; None: none ended, or it said nothing, which is for Ray to mend."""
    pids = re.findall(r"^pid (\d+)$", told, re.MULTILINE)
    lines = [line for line in told.splitlines() if line.strip() and not line.startswith("pid ")]
    return lines[-1].strip() if lines and not all(map(_lives, pids)) else None


def _lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _start_actor(shard: Shard, group: Any, told: str) -> Any:
    from numoe.worker.running.actor import WorkerActor

    bound = ["/bin/sh", "-c", TELLING, told]
    bound += python_command("numoe.worker.placing.binding", *binding_of(shard), sys.executable)
    threads = str(len(shard.cpus))
    options = WorkerActor.options(  # type: ignore[attr-defined]  # added by ray.remote
        num_cpus=0,
        name=None,
        max_concurrency=2,
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, shard.worker),
        runtime_env={
            "py_executable": shlex.join(bound),  # Ray gives it to a shell
            "env_vars": {
                "OMP_NUM_THREADS": threads,
                "NUMBA_NUM_THREADS": threads,
                "PYTHONSAFEPATH": "1",
                **_kernel_environment(),
            },
        },
    )
    return options.remote()


def _kernel_environment() -> dict[str, str]:
    """What chooses the compiled kernels; a Ray node that was there before has an environment of its own."""
    return {name: os.environ[name] for name in KERNEL_VARIABLES if name in os.environ}


def _await(references: Sequence[Any], look: Callable[[], None]) -> None:
    """Wait until all are there or have failed; calls `look` now and then, and at the end."""
    pending = list(references)
    while pending:
        with inside_ray():
            _, pending = ray.wait(pending, num_returns=len(pending), timeout=POLL_SECONDS)
        look()


def fetch(reference: Any, look: Callable[[], None]) -> Any:
    """What a call of an actor returned; calls `look` now and then, whose exceptions end the waiting, not the call."""
    _await([reference], look)
    return ray.get(reference)


def _result(worker: int, doing: str, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        raise WorkerLost(f"worker {worker} died while {doing}: {error}", (worker,)) from error


def _report(worker: int, reference: Any) -> Any:
    report = _result(worker, "loading", reference)
    if isinstance(report, str):
        raise SetupError(report)
    return report
