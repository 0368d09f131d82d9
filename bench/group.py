"""A group of workers to measure, without the service around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from numoe.coordinator.logs import configure_logging
from numoe.coordinator.machine.model_file import read_spec
from numoe.coordinator.settings import EngineSettings, ServeSettings
from numoe.coordinator.workers.group import HostGroup
from numoe.coordinator.workers.starting import start_workers
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.protos.messages import Chunk, Sampling

GREEDY = Sampling()
PATIENCE_SECONDS = 600.0  # for one step


@contextmanager
def worker_group(path: Path, workers: int, threads: int | None, engine: EngineSettings) -> Iterator[HostGroup]:
    """Workers that hold the model of a file, ended with the context; threads None: one per core."""
    configure_logging()  # to standard error: tables go to standard output
    spec = read_spec(path)
    group = start_workers(
        spec=spec,
        plan=make_plan(spec, read_topology(), PlanOptions(workers, threads)),
        settings=ServeSettings(engine=engine),
        progress=lambda phase, done, total: None,
    )
    try:
        yield group
    finally:
        group.close()


def bytes_read(group: HostGroup) -> int:
    """Bytes of weights that the workers have read so far, all together."""
    return sum(int(counted["bytes_read"]) for counted in group.counters())


def chunk(
    group: HostGroup,
    row: int,
    first_position: int,
    token_ids: list[int],
    *,
    drawn: bool = True,
    row_tokens: int | None = None,
) -> Chunk:
    """Token ids of sequence `row` from a position on, its KV blocks side by side.

    Each row has room for `row_tokens` positions, by default for a full context.
    """
    size = group.limits.block_positions
    blocks = -(-(row_tokens or group.limits.context_tokens) // size)
    used = -(-(first_position + len(token_ids)) // size)
    assert row * blocks + used <= group.limits.kv_blocks, "kv_tokens of the settings is too small for this row"
    table = np.arange(row * blocks, row * blocks + used, dtype=np.int32)
    return Chunk(first_position, np.array(token_ids, np.int32), table, GREEDY if drawn else None)
