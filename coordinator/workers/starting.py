"""Starts the workers of a plan on this host: Ray's processes, compiling the kernels, then the group itself."""

from __future__ import annotations

import subprocess
import time

from numoe.coordinator.workers.ray_node import start_ray  # sets what Ray reads when it is imported

# isort: split
import ray

from numoe.coordinator.programs import python_command
from numoe.coordinator.progress import LoadProgress
from numoe.coordinator.settings import KV_TYPES, ServeSettings
from numoe.coordinator.workers.group import HostGroup
from numoe.coordinator.workers.survivors import start_watching
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorType
from numoe.model.planning.plan import ShardPlan
from numoe.protos.errors import ServiceError, SetupError

POLL_SECONDS = 0.1  # between two looks at the compiling process


def start_workers(*, spec: ModelSpec, plan: ShardPlan, settings: ServeSettings, progress: LoadProgress) -> HostGroup:
    """Start Ray, compile what is not in the cache yet, and load a worker per shard.

    Raises:
        SetupError: a worker cannot become what the plan says; the message tells why.
        ServiceError: the workers did not start in time.
    """
    owns_ray, session = not ray.is_initialized(), None
    if owns_ray:
        start_watching()
    warm = python_command("numoe.worker.running.warm", *tile_types(spec, KV_TYPES[settings.engine.kv_type]))
    with subprocess.Popen(warm, stderr=subprocess.PIPE, text=True) as warming:
        try:
            progress("starting", 0, 0)
            if owns_ray:
                session = start_ray(_units(plan), lambda: progress("starting", 0, 0))
            progress("compiling", 0, 0)
            _await_warm(warming, settings.workers.start_timeout_seconds, progress)
            group = HostGroup(spec, plan, settings, session)
            try:
                group.start(progress)
            except BaseException:
                group.close()
                raise
            return group
        except BaseException:
            warming.kill()
            if owns_ray:
                ray.shutdown()
            raise


def tile_types(spec: ModelSpec, kv_type: TensorType) -> list[str]:
    """What workers run tiles of, as worker/running/warm.py names it: the types of the matrices and of the KV cache."""
    values = ["values"] if kv_type == TensorType.Q8_0 else []
    return sorted(type_.name for type_ in spec.matrix_types | {kv_type}) + values


def _units(plan: ShardPlan) -> dict[str, float]:
    """One unit of "numaN" per worker of NUMA node N."""
    units: dict[str, float] = {}
    for shard in plan.shards:
        units[f"numa{shard.node}"] = units.get(f"numa{shard.node}", 0.0) + 1.0
    return units


def _await_warm(warming: subprocess.Popen[str], seconds: float, progress: LoadProgress) -> None:
    end = time.monotonic() + seconds
    while warming.poll() is None:
        if time.monotonic() > end:
            raise ServiceError(f"compiling the kernels took more than {seconds:.0f} s; is the machine overloaded?")
        progress("compiling", 0, 0)
        time.sleep(POLL_SECONDS)
    if warming.returncode != 0:
        errors = warming.communicate()[1].strip().splitlines()
        raise SetupError(f"compiling the kernels failed: {errors[-1] if errors else 'no message'}")
