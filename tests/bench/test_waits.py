"""Simulated threads do all work once, and wait for each other as the lines between them have it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.waits.__main__ import large_model, socket_rates, step_of
from bench.waits.simulation import BEFORE, NOW, PUBLISHED, Latencies, Phase, Scheme, SimulatedTeam, simulate
from bench.waits.step_phases import phases_of

SCHEMES = {"before": BEFORE, "now": NOW}
every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)


def team_of(threads: int, scheme: Scheme) -> SimulatedTeam:
    return SimulatedTeam(threads, Latencies(near=25e-9, far=100e-9), scheme, cache_threads=8)


@every_scheme
@pytest.mark.parametrize("threads", [1, 2, 7, 20])
@pytest.mark.parametrize("items", [1, 3, 17, 100])
def test_each_item_is_worked_on_once(items: int, threads: int, scheme: Scheme) -> None:
    team = team_of(threads, scheme)
    seconds = simulate([Phase(1e-3, 1e-3, items), Phase(2e-3, 2e-3, items)], team)
    assert team.worked == 2 * items
    assert seconds >= 3e-3 / items * -(-items // threads)  # nobody works on a part of an item
    assert team.lost.waiting >= 0


@every_scheme
def test_two_threads_wait_for_a_few_lines(scheme: Scheme) -> None:
    """Both write to the word of arrival, one to that of leaving, which the other fetches."""
    assert 3 * 25e-9 < simulate([Phase(0.0, 0.0, 0)], team_of(2, scheme)) < 6 * 25e-9


def test_many_threads_wait_less_in_groups() -> None:
    alone, grouped = (simulate([Phase(0.0, 0.0, 0)], team_of(128, one)) for one in (BEFORE, NOW))
    assert grouped < alone / 3


def test_sixteen_groups_wait_less_where_a_few_come_to_one_word_first() -> None:
    """The team's line is passed on 3 times instead of 15, and before that those of neighbours 3 times: 9 ways less."""
    flat, near = (simulate([Phase(0.0, 0.0, 0)], team_of(128, replace(NOW, neighbours=n))) for n in (0, 4))
    assert flat - near > 7 * 100e-9


def test_tickets_do_not_fail_where_many_come_at_once() -> None:
    swapped, drawn = (
        simulate([Phase(1e-4, 64e-4, 640)], team_of(64, replace(BEFORE, tickets=tickets))) for tickets in (False, True)
    )
    assert drawn < swapped / 2


def test_a_step_is_faster_than_before_on_twenty_cores_and_the_same_on_two() -> None:
    spec = large_model(1)
    for threads, least, most in ((2, 0.99, 1.0), (20, 0.5, 0.95)):
        before, now = (step_of(spec, socket_rates(threads), PUBLISHED, one, 8) for one in (BEFORE, NOW))
        assert least < now.seconds / before.seconds < most
        assert now.lost < before.lost


def test_a_step_s_phases_are_as_many_as_its_waits() -> None:
    """10 of a layer and 3 of the head; choosing experts was a phase of its own."""
    spec, rates = large_model(2), socket_rates(4)
    assert len(list(phases_of(spec, rates, NOW))) == 2 * 10 + 3
    assert len(list(phases_of(spec, rates, BEFORE))) == 2 * 11 + 3
