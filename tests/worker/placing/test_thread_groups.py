"""Threads that share a cache wait for each other first."""

from __future__ import annotations

from numoe.model.machine.topology import Cache
from numoe.model.planning.prediction.speeds import TOGETHER
from numoe.worker.placing.thread_groups import MOST_TOGETHER, thread_groups


def caches(*shared: range) -> list[Cache]:
    """A last-level cache for each range of CPUs, and smaller ones of every CPU."""
    own = [Cache(level, "Data", 1 << 15, (cpu,)) for one in shared for cpu in one for level in (1, 2)]
    return [*own, *(Cache(3, "Unified", 1 << 25, tuple(one)) for one in shared)]


def test_threads_that_share_the_last_cache_are_a_group() -> None:
    assert thread_groups([0, 1, 2, 3, 4, 5], caches(range(3), range(3, 6))) == [0, 0, 0, 1, 1, 1]
    assert thread_groups([5, 0, 4, 1], caches(range(3), range(3, 6))) == [1, 0, 1, 0]


def test_many_threads_of_one_cache_are_several_groups_as_equal_as_can_be() -> None:
    groups = thread_groups(range(20), caches(range(20)))
    assert groups == sorted(groups)
    assert [groups.count(one) for one in sorted(set(groups))] == [7, 7, 6]


def test_predictions_know_how_many_threads_are_a_group() -> None:
    assert TOGETHER == MOST_TOGETHER


def test_threads_of_unknown_caches_are_groups_too() -> None:
    assert thread_groups([0, 1], []) == [0, 0]
    assert thread_groups([0, 7, 1], caches(range(2))) == [1, 0, 1]
    assert thread_groups([3, 3, 3], caches(range(4))) == [0, 0, 0]
