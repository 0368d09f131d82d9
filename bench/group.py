"""The product's measured workers, laid out as a bench says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from numoe.coordinator.logs import configure_logging
from numoe.coordinator.measuring.steps import GREEDY
from numoe.coordinator.measuring.workers import MeasuredWorkers, measured_workers
from numoe.coordinator.settings import EngineSettings, ServeSettings, WorkerSettings
from numoe.coordinator.workers.group import HostGroup
from numoe.protos.messages import Chunk

PATIENCE_SECONDS = WorkerSettings().step_timeout_seconds


@contextmanager
def worker_group(path: Path, workers: int, threads: int | None, engine: EngineSettings) -> Iterator[MeasuredWorkers]:
    """Workers that hold the model of a file, ended with the context; threads None: one per core."""
    configure_logging()  # to standard error: tables go to standard output
    settings = ServeSettings(workers=WorkerSettings(workers=workers, threads_per_worker=threads), engine=engine)
    with measured_workers(path, settings, lambda phase, done, total: None) as measured:
        yield measured


def chunk(group: HostGroup, first_position: int, token_ids: list[int]) -> Chunk:
    """Token ids of the one sequence from a position on, drawn after."""
    used = -(-(first_position + len(token_ids)) // group.limits.block_positions)
    assert used <= group.limits.kv_blocks, "kv_tokens of the settings is too small"
    return Chunk(first_position, np.array(token_ids, np.int32), np.arange(used, dtype=np.int32), GREEDY)
