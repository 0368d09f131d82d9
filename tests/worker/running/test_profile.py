"""What threads note of real steps: where the time goes and what is read, while every bit stays."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from numoe.protos.messages import Sampling
from numoe.protos.profile import INSIDE, NOTED, NOTHING, PHASES, STEPS, TIME_LINE, most_events
from tests.tiny_model import TinyShape, write_tiny_model
from tests.worker.running.shard_process import ShardGroup, chunk, running_shards

LAYERS, WORKERS, THREADS = 2, 2, 2
PROMPT = list(range(1, 13))


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardGroup]:
    path: Path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_model(path, TinyShape(layers=LAYERS))
    cpus = sorted(os.sched_getaffinity(0))
    with running_shards(path, [(cpus[0], cpus[-1])] * WORKERS) as running:
        yield running


def logits_of(group: ShardGroup, level: int) -> list[NDArray[np.float32]]:
    """The logits of a prompt and of tokens after it."""
    group.channel.profile_level = level
    group.run(chunk(0, PROMPT, [0], Sampling()))
    found = [group.channel.logits()]
    for position in range(len(PROMPT), len(PROMPT) + 4):
        group.run(chunk(position, [position], [0], Sampling()))
        found.append(group.channel.logits())
    return found


def wait_for_steps(group: ShardGroup, counts: list[int]) -> None:
    """Until every thread has noted so many steps: the last wait of a step is over before it is noted."""
    for worker, count in enumerate(counts):
        while (group.channel.part(worker, "profile_state")[:, STEPS] < count).any():
            time.sleep(0)


def noted(group: ShardGroup) -> list[int]:
    return [int(group.channel.part(worker, "profile_state")[:, STEPS].max()) for worker in range(WORKERS)]


def test_a_profiled_step_has_the_bits_of_any_other(group: ShardGroup) -> None:
    before, profiled, after = (logits_of(group, level) for level in (NOTHING, TIME_LINE, NOTHING))
    for one, two, three in zip(before, profiled, after, strict=True):
        assert one.tobytes() == two.tobytes() == three.tobytes()


def phases_of(tokens: int) -> list[int]:
    """All; one token's experts are chosen by the last thread that has computed its logits, within that phase."""
    return [number for number, name in enumerate(PHASES) if tokens > 1 or name != "choose"]


@pytest.mark.parametrize("tokens", [1, len(PROMPT)])
def test_phases_and_waits_are_all_of_a_steps_time(group: ShardGroup, tokens: int) -> None:
    steps, begun = 50, noted(group)
    states = [group.channel.part(worker, "profile_state").copy() for worker in range(WORKERS)]
    cells = [group.channel.part(worker, "profile_cells").copy() for worker in range(WORKERS)]
    group.channel.profile_level = TIME_LINE
    for _ in range(steps):
        group.run(chunk(0, PROMPT[:tokens], [0], Sampling()))
    group.channel.profile_level = NOTHING
    wait_for_steps(group, [count + steps for count in begun])
    for worker in range(WORKERS):
        state = group.channel.part(worker, "profile_state")
        inside = (state - states[worker])[:, INSIDE]
        spent = group.channel.part(worker, "profile_cells") - cells[worker]
        assert (spent >= 0).all()
        assert spent.sum(axis=(1, 2, 3)).tolist() == inside.tolist()
        assert (np.flatnonzero(spent.sum(axis=(0, 1, 3)) > 0) == phases_of(tokens)).all()  # each took some time
        for thread in range(THREADS):
            line = group.channel.part(worker, "profile_events")[thread, : state[thread, NOTED]]
            assert len(line) < most_events(LAYERS)
            assert (np.diff(line[:, 1:].reshape(-1)) >= 0).all()
            layers, phases = np.divmod(line[:, 0], len(PHASES))
            assert np.bincount(layers)[:LAYERS].max() <= 15
            assert sorted(set(phases.tolist())) == phases_of(tokens)


def test_bytes_by_phase_are_all_that_is_read(group: ShardGroup) -> None:
    group.run(chunk(0, PROMPT, [0], Sampling()))
    for worker in range(WORKERS):
        counted = group.channel.counters(worker)
        while counted["steps"] < group.channel.published:
            time.sleep(0)
        of_steps = group.channel.part(worker, "step_bytes") * counted["steps"]
        read = of_steps + group.channel.part(worker, "chosen_bytes")
        assert read.sum() == counted["bytes_read"] > 0
        named = {phase for phase, size in zip(PHASES, read.tolist(), strict=True) if size}
        assert named == {"qkv", "attention_output", "router", "gate_up", "down", "head"}
