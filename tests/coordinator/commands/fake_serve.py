"""The command `numoe` with fake workers: python -m tests.coordinator.commands.fake_serve serve MODEL ..."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

from numoe.coordinator.commands.main import main
from numoe.coordinator.settings import ServeSettings
from numoe.coordinator.workers.placement import LoadProgress
from numoe.model.architectures.spec import ModelSpec
from numoe.model.planning.plan import ShardPlan
from tests.coordinator.api.grpc.grpc_serving import FakeWorkers, fake_workers


def start_workers(
    *, model_path: Path, spec: ModelSpec, plan: ShardPlan, settings: ServeSettings, progress: LoadProgress
) -> FakeWorkers:
    assert model_path.is_file()
    workers = fake_workers()
    workers.shards = plan
    progress("loading", spec.width, 2 * spec.width)
    return workers


if __name__ == "__main__":
    launcher = ModuleType("numoe.coordinator.workers.group")
    launcher.start_workers = start_workers  # type: ignore[attr-defined]
    sys.modules[launcher.__name__] = launcher
    main()
