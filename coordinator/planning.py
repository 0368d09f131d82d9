"""From settings to a plan: what the operator said, what was counted and measured, given to the planner."""

from __future__ import annotations

from dataclasses import replace

from numoe.coordinator.config import KV_TYPES, ServeSettings, WorkerSettings, kv_tokens
from numoe.model.bandwidth import bandwidth_file, load_bandwidth
from numoe.model.expert_stats import ExpertStats, load_stats
from numoe.model.plan import PlanOptions
from numoe.model.plan_file import from_toml
from numoe.model.planner import Choice, Wishes, choose_plan, price_plan
from numoe.model.spec import ModelSpec
from numoe.model.speeds import Speeds, guessed_speeds, measured_speeds, told_speeds
from numoe.model.topology import Topology
from numoe.protos.errors import SetupError


def planned(spec: ModelSpec, topology: Topology, settings: ServeSettings) -> Choice:
    """The operator's plan where there is one, else the best for this machine; not checked against its memory."""
    chosen = settings.workers
    wishes = Wishes(
        split=chosen.split,
        replicas=chosen.replicas,
        batch=chosen.batch,
        kv_tokens=kv_tokens(settings.engine, spec.context_length),
        kv_type=KV_TYPES[settings.engine.kv_type],
    )
    speeds, stats = speeds_of(topology, chosen), stats_of(spec, chosen)
    if chosen.plan_file is None:
        options = PlanOptions(chosen.workers, chosen.threads_per_worker, chosen.nodes)
        return choose_plan(spec, topology, options, wishes, speeds, stats)
    try:
        text = chosen.plan_file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"the plan {chosen.plan_file} cannot be read: {error}") from error
    found = price_plan(spec, topology, from_toml(text, spec), wishes, speeds, stats)
    return Choice(replace(found, name=found.plan.split), (), f"{chosen.plan_file} says so")


def speeds_of(topology: Topology, chosen: WorkerSettings) -> Speeds:
    """Bandwidths as the operator said them, else as `numoe doctor` measured them here, else a guess."""
    if chosen.bandwidth is not None:
        return told_speeds(topology, chosen.bandwidth)
    measured = load_bandwidth(bandwidth_file(), topology)
    return guessed_speeds(topology) if measured is None else measured_speeds(topology, measured)


def stats_of(spec: ModelSpec, chosen: WorkerSettings) -> ExpertStats | None:
    """What was counted before; None where there is no file yet, or no expert to count."""
    path = chosen.expert_stats
    if path is None or not spec.routed:
        return None
    if not path.parent.is_dir():
        raise SetupError(f"--expert-stats {path}: the folder {path.parent} does not exist; make it, or name another")
    found = load_stats(path, spec) if path.exists() else None
    return found if found is not None and found.tokens else None
