"""Every wait ends: when its word changes, when the abort word is set, or at its deadline."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from numoe.kernels.threads.profile import BEATS
from numoe.kernels.threads.system_calls import clock_ns, futex_wake
from numoe.kernels.threads.team import GROUP_SLEEPERS, SHARED_SLEEPERS, abort_all, barrier, gather
from numoe.kernels.threads.waiting import StepAborted, StepTimedOut, wait_idle, wait_while
from tests.kernels.numeric import address
from tests.kernels.threads.teams import TeamWords, add_to, load_from

NEVER_SLEEP = 10**9  # spins


def wait_until_asleep(sleepers: int) -> None:
    """Return once somebody sleeps on the word that `sleepers` belongs to."""
    while load_from(sleepers) == 0:
        os.sched_yield()


def test_the_abort_word_ends_a_wait_for_the_team() -> None:
    words, step = TeamWords(1), np.zeros(1, np.int32)
    team = words.team(0, 0, 2, spins=0)
    with words.waiting() as pool:
        future = pool.submit(barrier, team)
        wait_until_asleep(team.group + GROUP_SLEEPERS)
        abort_all(words.abort, address(step), words.shared)
        with pytest.raises(StepAborted):
            future.result(60)


def test_the_abort_word_wakes_who_sleeps_on_a_gather_or_on_the_step_word() -> None:
    words, (step, sleepers) = TeamWords(2), np.zeros((2, 1), np.int32)
    state = words.team(1, 0, 1).profile
    with words.waiting() as pool:
        gathering = pool.submit(gather, words.team(0, 0, 1, spins=0))
        idle = pool.submit(wait_while, address(step), np.int32(0), address(sleepers), words.abort, 0, 0, 0, state)
        wait_until_asleep(words.shared + SHARED_SLEEPERS)
        wait_until_asleep(address(sleepers))
        abort_all(words.abort, address(step), words.shared)
        for future in (gathering, idle):
            with pytest.raises(StepAborted):
                future.result(60)


def test_a_wait_that_passes_its_deadline_says_so() -> None:
    for wait in (barrier, gather):
        words = TeamWords(2)
        with pytest.raises(StepTimedOut):
            wait(words.team(0, 0, 2, spins=0, timeout_ns=1))


@pytest.mark.parametrize("spins", [0, NEVER_SLEEP])
def test_a_wait_without_a_deadline_lasts_until_the_word_changes(spins: int) -> None:
    words, (word, sleepers) = TeamWords(1), np.zeros((2, 1), np.int32)
    with words.waiting() as pool:
        arguments = address(word), np.int32(0), address(sleepers), words.abort, spins, 0, 0, words.team(0, 0, 1).profile
        future = pool.submit(wait_while, *arguments)
        if spins == 0:
            wait_until_asleep(address(sleepers))
        assert not future.done()
        add_to(address(word), 1)
        futex_wake(address(word))
        assert future.result(60) is None
    assert sleepers[0] == 0


def test_a_thread_that_offers_its_core_gives_signs_of_life() -> None:
    """Where others take the offer, each of the thousands of times takes as long as their time slice."""
    words, (word, sleepers) = TeamWords(1), np.zeros((2, 1), np.int32)
    beats = words.profile.view(np.int64)[BEATS // 8 :]
    with words.waiting() as pool:
        arguments = address(word), np.int32(0), address(sleepers), words.abort, NEVER_SLEEP, 0, address(words.profile)
        future = pool.submit(wait_idle, *arguments)
        end = time.monotonic() + 60.0
        try:
            while beats[0] < 100:
                assert time.monotonic() < end, "no sign of life"
                os.sched_yield()
            assert sleepers[0] == 0
        finally:
            add_to(address(word), 1)
        assert future.result(60) is None


def test_the_clock_is_the_monotonic_one() -> None:
    before, now, after = time.monotonic_ns(), clock_ns(), time.monotonic_ns()
    assert before <= now <= after
