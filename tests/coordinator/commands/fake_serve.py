"""The command `numoe` with fake workers: python -m tests.coordinator.commands.fake_serve serve MODEL ..."""

from __future__ import annotations

import sys
from types import ModuleType

from numoe.coordinator.commands.main import main
from numoe.coordinator.progress import LoadProgress
from numoe.coordinator.settings import ServeSettings
from numoe.coordinator.workers.keeping import Keeping
from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.plan import ShardPlan
from tests.coordinator.api.grpc.grpc_serving import FakeWorkers, fake_workers


def start_workers(
    *,
    spec: ModelSpec,
    plan: ShardPlan,
    settings: ServeSettings,
    progress: LoadProgress,
    standby: bool,
    keeping: Keeping | None,
    joined: None,
) -> FakeWorkers:
    assert spec.output.path.is_file()
    workers = fake_workers()
    workers.shards = plan
    progress("loading", spec.width, 2 * spec.width)
    return workers


if __name__ == "__main__":
    starting = ModuleType("numoe.coordinator.workers.starting")
    starting.start_workers = start_workers  # type: ignore[attr-defined]
    sys.modules[starting.__name__] = starting
    main()
