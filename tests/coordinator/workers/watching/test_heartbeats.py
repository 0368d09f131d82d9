"""A thread that gives no sign is noticed, told once, and forgotten when it moves again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from structlog.testing import capture_logs

from numoe.coordinator.workers.watching.heartbeats import NOTICED_SECONDS, TOLD_SECONDS, Heartbeats
from numoe.protos.profile import BEATS, STATE_WORDS

LOOK_SECONDS = 0.05


class Workers:
    """Two of them, of two threads and of one, whose threads give signs unless they are silent."""

    def __init__(self) -> None:
        self.states: list[NDArray[np.int64]] = [np.zeros((threads, STATE_WORDS), np.int64) for threads in (2, 1)]
        self.silent: set[tuple[int, int]] = set()
        self.now = 1000.0
        self.heartbeats = Heartbeats(self.states, self.now)

    def pass_time(self, seconds: float) -> None:
        """As the engine looks while it waits."""
        end = self.now + seconds
        while self.now < end:
            self.now += LOOK_SECONDS
            for worker, state in enumerate(self.states):
                for thread in range(len(state)):
                    state[thread, BEATS] += (worker, thread) not in self.silent
            self.found = self.heartbeats.look(self.now)


def test_workers_whose_threads_all_give_signs_are_not_stuck() -> None:
    workers = Workers()
    with capture_logs() as logged:
        workers.pass_time(100.0)
    assert workers.found is None
    assert not workers.heartbeats.stuck
    assert not logged


def test_a_thread_without_a_sign_is_noticed_within_half_a_second_told_once_and_forgotten() -> None:
    workers = Workers()
    workers.pass_time(1.0)
    workers.silent.add((0, 1))
    with capture_logs() as logged:
        workers.pass_time(NOTICED_SECONDS + LOOK_SECONDS)
        assert NOTICED_SECONDS + LOOK_SECONDS < 0.5
        assert workers.heartbeats.stuck == {0}
        assert workers.found is not None
        assert (workers.found.worker, workers.found.thread) == (0, 1)
        assert logged == []
        workers.pass_time(5.0)
        assert 5.0 < workers.found.seconds < 6.0
        workers.silent.clear()
        workers.pass_time(2 * LOOK_SECONDS)
        assert not workers.heartbeats.stuck
    assert [(line["event"], line["worker"]) for line in logged] == [("worker_stuck", 0), ("worker_moves_again", 0)]
    assert logged[0]["seconds"] >= TOLD_SECONDS


def test_a_pause_of_all_in_which_nobody_looked_is_nobody_s_silence() -> None:
    """As when the whole machine sleeps, or the coordinator is stopped beside its workers."""
    workers = Workers()
    workers.pass_time(1.0)
    workers.now += 3600.0
    found = workers.heartbeats.look(workers.now)
    assert found is not None
    assert found.seconds <= 1.0 + LOOK_SECONDS
    workers.pass_time(2 * LOOK_SECONDS)
    assert workers.heartbeats.stuck == frozenset()
