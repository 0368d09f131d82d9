"""Decides on a plan: gives the planner what the operator said, what was counted and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import structlog

from numoe.coordinator.limits import step_limits
from numoe.coordinator.machine.numa import plan_options
from numoe.coordinator.settings import ServeSettings, WorkerSettings, expert_reduction, kv_types
from numoe.model.architectures.spec import ModelSpec
from numoe.model.doctor.process_limits import quota_cost, quota_remedy
from numoe.model.gguf.kv_types import KvTypes
from numoe.model.machine.bandwidth import bandwidth_file, load_bandwidth
from numoe.model.machine.cgroups import cpu_quota
from numoe.model.machine.memory_lock import lock_limit, refusal
from numoe.model.machine.topology import Topology
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.expert_stats import ExpertStats, load_stats
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.plan_checks import check_placement
from numoe.model.planning.plan_file import from_toml
from numoe.model.planning.plan_size import shard_bytes
from numoe.model.planning.prediction.candidates import Wishes
from numoe.model.planning.prediction.planner import Choice, choose_plan, price_plan
from numoe.model.planning.prediction.speeds import Speeds, guessed_speeds, measured_speeds, told_speeds
from numoe.model.planning.worker_memory import worker_memory
from numoe.protos.errors import SetupError
from numoe.protos.messages import StepLimits

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PlanDecision:
    """A choice, and what it rests on."""

    choice: Choice
    speeds: Speeds
    stats: ExpertStats | None  # None: nothing was counted

    @property
    def plan(self) -> ShardPlan:
        return self.choice.best.plan


def decide_plan(
    spec: ModelSpec, topology: Topology, settings: ServeSettings, told: ShardPlan | None = None
) -> PlanDecision:
    """Take the operator's plan where there is one, else the best for `topology`; its memory is not looked at.

    `told`: the plan, where it was read already.
    """
    chosen = settings.workers
    if settings.engine.k_cache_hadamard and spec.head_size & (spec.head_size - 1):
        raise SetupError(f"--k-cache-hadamard: heads have {spec.head_size} dimensions, expected a power of two")
    wishes = Wishes(
        split=chosen.split,
        replicas=chosen.replicas,
        batch=chosen.batch,
        limits=step_limits(settings.engine, spec.context_length),
        kv_types=kv_types(settings.engine),
        run_experts=_run_experts(spec, settings),
    )
    speeds, stats = find_speeds(topology, chosen), counted_before(spec, chosen)
    part, options = plan_options(topology, chosen)
    if told is None and chosen.plan_file is None:
        return PlanDecision(choose_plan(spec, part, options, wishes, speeds, stats), speeds, stats)
    if told is None and chosen.plan_file is not None:
        told = from_toml(read_plan_text(chosen.plan_file), spec)
    assert told is not None
    found = price_plan(spec, topology, told, wishes, speeds, stats)
    choice = Choice(replace(found, name=found.plan.split), (), f"{chosen.plan_file or 'the plan of all hosts'} says so")
    return PlanDecision(choice, speeds, stats)


def read_plan_text(path: Path) -> str:
    """Of a plan's file. Raises SetupError."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"the plan {path} cannot be read: {error}") from error


def _run_experts(spec: ModelSpec, settings: ServeSettings) -> int | None:
    """How many of its active experts a token runs, where that is known before any is."""
    reduction = expert_reduction(settings.engine)
    if reduction.threshold and not spec.routed:
        raise SetupError(f"--smart-expert-reduction is set, and {spec.name} has no experts to leave out: leave it away")
    return reduction.fewest if reduction.threshold == 1.0 else None


def plan_this_machine(
    spec: ModelSpec,
    settings: ServeSettings,
    kept: Mapping[int, int] = MappingProxyType({}),
    told: ShardPlan | None = None,
) -> ShardPlan:
    """Decide on the plan to serve by, for this machine. Raises PlanError if it does not fit the memory.

    `kept`: bytes of the model's weights that are in memory already, by node; `told`: see decide_plan.
    """
    topology = read_topology().with_room(kept)
    shards = decide_plan(spec, topology, settings, told).plan
    limits = step_limits(settings.engine, spec.context_length)
    types = kv_types(settings.engine)
    check_placement(shards, spec, topology, limits, types)
    check_lock(shards, spec, settings.workers, Path("/"))
    for note in shards.notes:
        _log.info("plan_note", note=note)
    warn_of_quota(shards, Path("/"))
    _log_memory(shards, spec, limits, types)
    return shards


def check_lock(shards: ShardPlan, spec: ModelSpec, chosen: WorkerSettings, root: Path) -> None:
    """Raise SetupError if weights are to be locked and a worker may not lock as many as it has."""
    limit = lock_limit(root) if chosen.mlock else None
    for shard in shards.shards:
        if limit is not None and (wanted := shard_bytes(shards, spec, shard).weights) > limit:
            raise SetupError(refusal(shard.worker, wanted, limit))


def _log_memory(shards: ShardPlan, spec: ModelSpec, limits: StepLimits, types: KvTypes) -> None:
    """Say what loading will take, before it does."""
    memory = worker_memory(shards, spec, limits, types)
    _log.info(
        "memory_planned",
        weight_bytes=sum(one.weights for one in memory),
        kv_bytes=sum(one.kv_cache for one in memory),
        kv_positions=limits.kv_blocks * limits.block_positions,
        kv_types=f"{types.keys.name.lower()}, {types.values.name.lower()}",
        other_bytes=sum(one.working + one.process for one in memory),
    )


def warn_of_quota(shards: ShardPlan, root: Path) -> None:
    """Log it if the process may not use all of the plan's cores all the time."""
    quota, cores = cpu_quota(root), len({cpu for shard in shards.shards for cpu in shard.cpus})
    if quota is not None and quota < cores:
        _log.warning(
            "cpu_quota_too_small",
            found=f"a cgroup quota of {quota:g} CPUs",
            expected=f"none, or at least {cores}, as many as the workers compute on",
            cost=quota_cost(quota, cores),
            mend=quota_remedy(quota),
        )


def find_speeds(topology: Topology, chosen: WorkerSettings) -> Speeds:
    """Bandwidths: what the operator said, else what `numoe doctor` measured here, else a guess."""
    if chosen.bandwidth is not None:
        return told_speeds(topology, chosen.bandwidth)
    measured = load_bandwidth(bandwidth_file(), topology)
    return guessed_speeds(topology) if measured is None else measured_speeds(topology, measured)


def counted_before(spec: ModelSpec, chosen: WorkerSettings) -> ExpertStats | None:
    """What the settings' file has; None where there is none yet, or no expert to count. Raises SetupError."""
    path = chosen.expert_stats
    if path is None or not spec.routed:
        return None
    if not path.parent.is_dir():
        raise SetupError(f"--expert-stats {path}: the folder {path.parent} does not exist; make it, or name another")
    found = load_stats(path, spec) if path.exists() else None
    return found if found is not None and found.tokens else None
