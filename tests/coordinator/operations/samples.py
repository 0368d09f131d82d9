"""Samples of a made-up service, and a machine's facts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.engine.state import EngineSnapshot, EngineState
from numoe.coordinator.machine.machine_look import Host, MachineFacts, NodeUse, Threads
from numoe.coordinator.operations.history import Sample, Times
from numoe.protos.arena import COUNTERS

ZERO = dict.fromkeys(COUNTERS.names or (), 0)
NODE = NodeUse(0, 0, "0-1", 100, 50, 10, 20, 10, 5, 5, 0, 0, 0, peak=10e9)
FACTS = MachineFacts(Host("box", "a chip", "madvise", "as told", (NODE,), told_at=9.0), {0: Threads(9, 2)}, ())
HITS = np.zeros((2, 4), np.int64)


def engine(**counts: int) -> EngineSnapshot:
    known: dict[str, Any] = dict.fromkeys(
        ("running", "queued", "kv_blocks_used", "steps", "prompt_tokens", "generated_tokens"), 0
    )
    return EngineSnapshot(EngineState.SERVING, **(known | {"kv_blocks": 64, "restarts": 0} | counts))


def sample(
    at: float, workers: tuple[dict[str, int], ...] = (), hits: NDArray[np.int64] = HITS, **counts: int
) -> Sample:
    first, between = (Times(counts.pop(name, 0), counts.pop(f"{name}_sum", 0)) for name in ("first", "between"))
    return Sample(at, engine(**counts), first, between, workers, hits)
