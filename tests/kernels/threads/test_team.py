"""Threads of a team, and teams of several processes, wait for each other and share work out once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numoe.kernels.threads.team import (
    ARRIVED,
    GROUP_ARRIVED,
    GROUP_CLAIM,
    GROUP_SLEEPERS,
    SEEN,
    SHARED_ARRIVED,
    SHARED_SLEEPERS,
    WAITED,
    gather,
)
from tests.kernels.numeric import address
from tests.kernels.threads.gather_process import SHARED_BLOCK_BYTES
from tests.kernels.threads.teams import (
    TeamWords,
    add_to,
    count_claims,
    count_serial_work,
    cross_check,
    load_from,
    long_from,
    note_claims,
)

ROOT = Path(__file__).parents[3]


def all_threads(threads: int, run: Callable[[int], Any]) -> list[Any]:
    """Run `run(thread)` on so many threads at once and return what they gave."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, range(threads)))


TEAMS = [(1, 1), (2, 1), (2, 2), (5, 1), (5, 2), (5, 3), (6, 6), (9, 9)]  # threads, groups


@pytest.mark.parametrize("spins", [0, 50, 5000])
@pytest.mark.parametrize("pieces", [1, 3, 17, 100])
@pytest.mark.parametrize(("threads", "groups"), TEAMS)
def test_each_piece_is_claimed_once_in_each_phase(threads: int, groups: int, pieces: int, spins: int) -> None:
    words, counts = TeamWords(1), np.zeros((60, pieces), np.int32)
    all_threads(threads, lambda thread: count_claims(words.team(0, thread, threads, spins, groups=groups), counts, 60))
    np.testing.assert_array_equal(counts, 1)
    assert load_from(words.team(0, 0, threads).group + GROUP_CLAIM) == 0


def test_what_a_group_leaves_is_taken_by_threads_of_those_before_it() -> None:
    """One thread alone, of 4 in 4 groups: its own items, the rest of its group's, and half of the next two groups'."""
    words, order = TeamWords(1), np.zeros(81, np.int32)
    note_claims(words.team(0, 1, 4, groups=4), order)
    assert order[: order[-1]].tolist() == [*range(20, 40), *range(50, 60), *range(70, 80)]


@pytest.mark.parametrize("threads", [2, 5])
def test_half_of_the_pieces_are_every_thread_s_own_and_the_rest_whose_it_claims(threads: int) -> None:
    words, pieces = TeamWords(1), 20 * threads
    for thread in range(threads):  # one after the other: the first one takes all that is to be claimed
        order = np.zeros(pieces + 1, np.int32)
        note_claims(words.team(0, thread, threads), order)
        own, claimed = [*range(10 * thread, 10 * thread + 10)], [*range(10 * threads, pieces)] if thread == 0 else []
        assert order[: order[-1]].tolist() == own + claimed


def test_a_lone_thread_claims_in_order_and_nothing_where_nothing_is() -> None:
    for pieces in (0, 1, 2, 100):
        words, order = TeamWords(1), np.zeros(pieces + 1, np.int32)
        note_claims(words.team(0, 0, 1), order)
        assert order.tolist() == [*range(pieces), pieces]


@pytest.mark.parametrize(("threads", "groups"), TEAMS)
def test_one_thread_of_a_team_does_the_serial_work(threads: int, groups: int) -> None:
    words, total = TeamWords(1), np.zeros(1, np.int64)
    all_threads(threads, lambda thread: count_serial_work(words.team(0, thread, threads, groups=groups), total, 300))
    assert total[0] == 300


@pytest.mark.parametrize(("threads", "groups"), [(1, 1), (3, 1), (3, 2), (5, 5)])
def test_after_a_gather_every_thread_sees_what_all_teams_wrote(threads: int, groups: int) -> None:
    teams = 3
    words, cells = TeamWords(teams), np.zeros(teams * 64, np.uint8)

    def run(number: int) -> int:
        worker, thread = divmod(number, threads)
        return int(cross_check(words.team(worker, thread, threads, groups=groups), address(cells), worker, 100))

    assert all_threads(teams * threads, run) == [0] * teams * threads
    assert load_from(words.shared + SHARED_ARRIVED) == 0


def test_a_team_tells_how_long_it_waited_for_others_and_that_it_is_there() -> None:
    words, before = TeamWords(2), time.monotonic_ns()
    early, late = words.team(0, 0, 1, spins=0), words.team(1, 0, 1, spins=0)
    with words.waiting() as pool:
        waiting = pool.submit(gather, early)
        while load_from(words.shared + SHARED_SLEEPERS) == 0:
            os.sched_yield()
        asleep = time.monotonic_ns()
        while long_from(early.signs + SEEN) <= asleep:  # who waits looks up all the time
            os.sched_yield()
        came = time.monotonic_ns()
        gather(late)
        waiting.result(60)
    after = time.monotonic_ns()
    assert came - asleep <= long_from(early.signs + WAITED) <= after - before
    assert long_from(late.signs + WAITED) == 0
    assert came <= long_from(late.signs + SEEN) <= after


def test_processes_gather_through_a_shared_block() -> None:
    workers, threads = 3, 2
    descriptor = os.memfd_create("gather")
    os.ftruncate(descriptor, SHARED_BLOCK_BYTES)
    try:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.kernels.threads.gather_process"]
                + [str(number) for number in (descriptor, workers, worker, threads, 100)],
                pass_fds=[descriptor],
                cwd=ROOT,
                stdout=subprocess.PIPE,
            )
            for worker in range(workers)
        ]
        answers = [process.communicate()[0] for process in processes]
    finally:
        os.close(descriptor)
    assert answers == [b"0 0"] * workers


def test_a_team_word_set_by_a_wait_is_clean_after_the_barrier() -> None:
    words = TeamWords(1)
    all_threads(4, lambda thread: count_claims(words.team(0, thread, 4, 0), np.zeros((20, 3), np.int32), 20))
    team = words.team(0, 0, 4)
    assert load_from(team.group + GROUP_SLEEPERS) == 0
    assert load_from(team.group + GROUP_ARRIVED) == 0
    assert load_from(team.words + ARRIVED) == 0
    assert load_from(team.group + GROUP_CLAIM) == 0


def test_atomics_wrap_and_return_the_value_before() -> None:
    word = np.array([2**31 - 1], np.int32)
    assert add_to(address(word), 1) == 2**31 - 1
    assert word[0] == -(2**31)
