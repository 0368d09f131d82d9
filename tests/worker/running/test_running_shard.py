"""A shard runs one step after another, whatever order its threads get to run in."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from numoe.protos.messages import Sampling
from numoe.protos.profile import BEATS
from tests.tiny_model import TinyShape, write_tiny_model
from tests.worker.running.shard_process import chunk, running_shards


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one layer."""
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_model(path, TinyShape(layers=1))
    return path


def test_a_late_thread_does_not_take_the_next_step_for_its_own(model_path: Path) -> None:
    """Two threads and the coordinator share one CPU, so a thread often leaves a step after the next is published.

    Steps that draw nothing take turns with steps that draw: a thread that read the next step's header would wait for
    the others in a phase that they never come to.
    """
    cpus = os.sched_getaffinity(0)
    cpu = min(cpus)
    os.sched_setaffinity(0, {cpu})
    try:
        with running_shards(model_path, [(cpu, cpu)]) as group:
            drawn = []
            for _ in range(200):
                nothing = group.run(chunk(0, [1, 2, 3], [0]))
                assert nothing.token_ids.size == 0
                drawn.append(group.run(chunk(3, [4], [0], Sampling())).token_ids[0])
    finally:
        os.sched_setaffinity(0, cpus)
    assert len(set(drawn)) == 1


def test_workers_tell_how_long_they_waited_and_that_they_are_there(model_path: Path) -> None:
    cpu, before = min(os.sched_getaffinity(0)), time.monotonic_ns()
    with running_shards(model_path, [(cpu,), (cpu,)]) as group:
        for _ in range(20):
            group.run(chunk(0, [1, 2, 3], [0], Sampling()))
        done = time.monotonic_ns()
        counters = [group.channel.counters(worker) for worker in (0, 1)]
        for counted in counters:  # one that has nothing to do gives a sign now and then
            while counted["seen_ns"] <= done:
                os.sched_yield()
        told = [counted.copy() for counted in counters]
    for counted in told:
        assert 0 <= counted["wait_ns"] <= counted["step_ns"]
        assert before < counted["seen_ns"] < time.monotonic_ns()
        assert counted["bytes_read"] == counted["bytes_begun"] > 0
    assert sum(int(counted["wait_ns"]) for counted in told) > 0  # they share a CPU, so one of them always waits


def test_every_thread_gives_signs_of_life_at_work_and_between_steps(model_path: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    with running_shards(model_path, [(cpu, cpu), (cpu,)]) as group:
        states = [group.channel.part(worker, "profile_state") for worker in (0, 1)]

        def beats() -> list[int]:
            return [int(count) for state in states for count in state[:, BEATS]]

        def wait_for_more() -> None:
            before = beats()
            while any(now <= then for now, then in zip(beats(), before, strict=True)):
                os.sched_yield()

        wait_for_more()
        before = beats()
        for position in range(20):
            group.run(chunk(position, [1], [0], Sampling()))
        assert all(now > then for now, then in zip(beats(), before, strict=True))
        wait_for_more()
