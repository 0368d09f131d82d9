"""Layers that this host runs, all of a model or one stage: planned for this machine, and loaded by its workers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from numoe.coordinator.machine.planning import plan_this_machine
from numoe.coordinator.progress import LoadProgress
from numoe.coordinator.settings import ServeSettings
from numoe.coordinator.workers.keeping import wanted_keeping
from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.plan import ShardPlan

if TYPE_CHECKING:
    from numoe.coordinator.cluster.ray_node import RayNode
    from numoe.coordinator.workers.group import HostGroup


def own_settings(settings: ServeSettings) -> ServeSettings:
    """As one of several hosts takes them: without the files that are about all of them."""
    return replace(settings, workers=replace(settings.workers, expert_stats=None, plan_file=None))


def load_layers(
    spec: ModelSpec,
    settings: ServeSettings,
    progress: LoadProgress,
    joined: RayNode | None = None,
    told: ShardPlan | None = None,
) -> HostGroup:
    """Plan, take up what a keeper has, and start the workers.

    `told`: the plan, where an operator gave one of all hosts; `joined` and what is raised: see start_workers.
    """
    keeping = wanted_keeping(spec, settings.workers)
    plan = plan_this_machine(spec, settings, keeping.adopt() if keeping else {}, told)
    # Ray takes seconds to import: only a server pays for that, after everything that can be refused has been looked at.
    from numoe.coordinator.workers.starting import start_workers

    return start_workers(
        spec=spec,
        plan=keeping.obeyed(plan) if keeping else plan,
        settings=settings,
        progress=progress,
        standby=settings.workers.standby,
        keeping=keeping,
        joined=joined,
    )
