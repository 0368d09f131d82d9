"""A profile of round numbers: two workers of two threads, two layers, four steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from numoe.protos.profile import FOR_WORKERS, PHASES, WORK, Profile, Traffic, WorkerProfile

LAYERS, THREADS, STEPS = 2, 2, 4
MILLISECOND = 1_000_000


def made_up_worker(worker: int) -> WorkerProfile:
    """Thread 1 works three times as long as thread 0, which waits for it; in layer 1 all take twice as long."""
    cells = np.zeros((THREADS, LAYERS + 1, len(PHASES), 3), np.int64)
    for layer in range(LAYERS):
        for phase in ("qkv", "attend", "gate_up", "down"):
            long = MILLISECOND * STEPS * (layer + 1)
            cells[0, layer, PHASES.index(phase)] = long, 2 * long, 0
            cells[1, layer, PHASES.index(phase)] = 3 * long, 0, 0
    cells[:, LAYERS, PHASES.index("head"), WORK] = 2 * MILLISECOND * STEPS
    cells[:, LAYERS, PHASES.index("draw"), FOR_WORKERS] = MILLISECOND * STEPS
    weight_bytes = np.zeros(len(PHASES), np.int64)
    weight_bytes[[PHASES.index(phase) for phase in ("qkv", "gate_up", "down", "head")]] = 36_000_000
    qkv, head = PHASES.index("qkv"), LAYERS * len(PHASES) + PHASES.index("head")
    events = [[0, qkv, 100, 200, 500, 500], [0, head, 500, 700, 700, 900], [1, qkv, 110, 500, 500, 510]]
    inside = cells.sum(axis=(1, 2, 3))
    return WorkerProfile(
        worker=worker,
        node=worker,
        cells=cells,
        inside=inside,
        step_ns=int(inside[0]),
        weight_bytes=weight_bytes,
        kv_bytes=18e6,
        peak=5e9,
        events=np.array(events, np.int64),
    )


def made_up_profile() -> Profile:
    """40 ms a step: 36 of phases, 3 of the head, 1 between steps."""
    counted = replace(made_up_worker(1), instructions=300, cycles=100, local_loads=9, remote_loads=1)
    return Profile(
        layers=LAYERS,
        steps=STEPS,
        tokens=STEPS,
        seconds=0.16,
        peak_source="as told",
        workers=(made_up_worker(0), counted),
        traffic=(Traffic("mon_L3_00", 16_000_000, 160_000_000),),
        remarks=("no instructions per cycle: </script><b>",),
    )
