"""Starts the workers of a plan on this host: Ray's processes, compiling the kernels, then the group itself."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from numoe.coordinator.cluster.ray_node import RayNode  # sets what Ray reads when it is imported

# isort: split
import ray

from numoe.coordinator.programs import last_line, open_errors, python_command
from numoe.coordinator.progress import LoadProgress
from numoe.coordinator.settings import ServeSettings, kv_types
from numoe.coordinator.workers.group import HostGroup
from numoe.coordinator.workers.keeping import Keeping, wanted_keeping
from numoe.coordinator.workers.started import tile_types
from numoe.coordinator.workers.watching.survivors import start_watching
from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.plan import ShardPlan
from numoe.protos.errors import ServiceError, SetupError

POLL_SECONDS = 0.1  # between two looks at the compiling process


def start_workers(
    *,
    spec: ModelSpec,
    plan: ShardPlan,
    settings: ServeSettings,
    progress: LoadProgress,
    standby: bool = False,
    keeping: Keeping | None = None,
    joined: RayNode | None = None,
) -> HostGroup:
    """Start Ray, compile what is not in the cache yet, and load a worker per shard.

    With `standby`, a process for each is kept beside it. `keeping`: of weights that there are before; None: there are
    none, and whether a keeper is started the settings say. `joined`: Ray, started before for the group, which ends it.

    Raises:
        SetupError: a worker cannot become what the plan says; the message tells why.
        ServiceError: the workers did not start in time.
    """
    refuse_other_machine(platform.machine())
    keeping = keeping or wanted_keeping(spec, settings.workers)
    started = None if ray.is_initialized() else RayNode(_units(plan, 2.0 if standby else 1.0))
    node = joined or started
    if node is not None:
        start_watching()
    with compiling(tile_types(spec, kv_types(settings.engine))) as warming:
        try:
            progress("starting", 0, 0)
            if started is not None:
                started.start(lambda: progress("starting", 0, 0))
            warming.wait_for(settings.workers.start_timeout_seconds, progress)
            group = HostGroup(spec, plan, settings, node, standby=standby, keeping=keeping)
            try:
                group.start(progress)
            except BaseException:
                group.close()
                raise
            return group
        except BaseException:
            if node is not None:
                node.end(keep_logs=True)
            raise


def refuse_other_machine(machine: str) -> None:
    """Raise SetupError where workers cannot run: what they ask of the kernel, and how they wait, is x86-64's."""
    if machine not in ("x86_64", "AMD64"):
        raise SetupError(f"this machine is {machine}, expected x86-64: kernels and workers are written for it alone")


def _units(plan: ShardPlan, of_worker: float) -> dict[str, float]:
    """So many units of "numaN" for each worker of NUMA node N."""
    units: dict[str, float] = {}
    for shard in plan.shards:
        units[f"numa{shard.node}"] = units.get(f"numa{shard.node}", 0.0) + of_worker
    return units


@contextmanager
def compiling(types: Sequence[str]) -> Iterator[Compiling]:
    """Compile for the types named, for the length of a block at most."""
    with open_errors() as errors:
        # A group of its own: Ctrl-C is for this process, which then ends it.
        command = python_command("numoe.worker.running.warm", f"--end-with={os.getpid()}", *types)
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors, process_group=0) as process:
            try:
                yield Compiling(process, errors)
            finally:
                process.kill()


@dataclass(frozen=True, slots=True)
class Compiling:
    """The process that compiles, and what it writes on standard error."""

    process: subprocess.Popen[bytes]
    errors: IO[bytes]

    def wait_for(self, seconds: float, progress: LoadProgress) -> None:
        """Wait until all is compiled. Raises SetupError with the last line it wrote, or ServiceError: it is late."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            if time.monotonic() > end:
                raise ServiceError(f"compiling the kernels took more than {seconds:.0f} s; is the machine overloaded?")
            progress("compiling", 0, 0)
            time.sleep(POLL_SECONDS)
        if self.process.returncode != 0:
            raise SetupError(f"compiling the kernels failed: {last_line(self.errors) or 'no message'}")
