"""Profiles of hosts as one: each layer's times stand at its place, each worker under its number."""

from __future__ import annotations

import numpy as np

from numoe.coordinator.profiling.figures import accounted, hosts_at_work, layer_times
from numoe.coordinator.profiling.joining import HostProfile, join_profiles
from numoe.protos.profile import PHASES
from tests.coordinator.profiling.made_up import LAYERS, made_up_profile

OTHER = "10.0.0.2"


def joined_twice() -> tuple[HostProfile, HostProfile]:
    profile = made_up_profile()
    return HostProfile("", 0, profile), HostProfile(OTHER, LAYERS, profile)


def test_one_host_is_as_it_was() -> None:
    own = made_up_profile()
    joined = join_profiles([HostProfile("", 0, own)])
    for one, other in zip(joined.workers, own.workers, strict=True):
        np.testing.assert_array_equal(one.cells, other.cells)
        np.testing.assert_array_equal(one.events, other.events)
    assert (joined.layers, joined.steps, joined.remarks, joined.traffic) == (LAYERS, 4, own.remarks, own.traffic)


def test_layers_and_workers_are_counted_on() -> None:
    joined = join_profiles(joined_twice())
    assert [(worker.worker, worker.host) for worker in joined.workers] == [(0, ""), (1, ""), (2, OTHER), (3, OTHER)]
    assert joined.layers == 2 * LAYERS
    own, other = made_up_profile().workers[0].cells, joined.workers[2].cells
    np.testing.assert_array_equal(other[:, LAYERS : 2 * LAYERS], own[:, :LAYERS])
    np.testing.assert_array_equal(other[:, 2 * LAYERS], own[:, LAYERS])
    assert not other[:, :LAYERS].any()
    np.testing.assert_array_equal(accounted(joined.workers[2]), accounted(joined.workers[0]))


def test_a_layer_takes_as_long_as_where_it_is_run() -> None:
    np.testing.assert_allclose(
        layer_times(join_profiles(joined_twice())), np.tile(layer_times(made_up_profile()), (2, 1))
    )


def test_in_the_time_line_a_host_follows_the_one_before() -> None:
    joined = join_profiles(joined_twice())
    first, second = joined.workers[0].events, joined.workers[2].events
    assert second[:, 2].min() == first[:, 2:].max() == 900
    np.testing.assert_array_equal(np.diff(second[:, 2:], axis=1), np.diff(first[:, 2:], axis=1))
    qkv, head = PHASES.index("qkv"), PHASES.index("head")
    assert second[:, 1].tolist() == [2 * len(PHASES) + qkv, 4 * len(PHASES) + head, 2 * len(PHASES) + qkv]


def test_what_is_said_of_another_host_names_it() -> None:
    joined = join_profiles(joined_twice())
    assert [one.domain for one in joined.traffic] == ["mon_L3_00", f"{OTHER}: mon_L3_00"]
    assert joined.remarks == (
        "no instructions per cycle: </script><b>",
        f"{OTHER}: no instructions per cycle: </script><b>",
    )


def test_hosts_that_work_at_once_are_counted() -> None:
    profile = made_up_profile()
    alone, hosts = hosts_at_work(profile)
    assert hosts == 1
    assert 0.9 < alone < 1.0
    assert hosts_at_work(join_profiles(joined_twice())) == (2 * alone, 2)
