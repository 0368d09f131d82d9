"""How layers are shared out over hosts: all of them, each once, so that the slowest host is as fast as can be."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numoe.model.planning.prediction.host_layers import HostForecast, LayerBytes, share_layers
from numoe.protos.errors import PlanError

HOST = HostForecast(alone=0.1, batched=0.2, batch=4, room=1 << 40, fixed=1 << 20, nodes=2, cores=32)
MODEL = LayerBytes(layers=(100,) * 12, embedding=50, output=50)


def test_equal_hosts_have_equally_many_layers() -> None:
    shared = share_layers(replace(MODEL, output=0), [HOST, HOST, HOST])
    assert shared.starts == (0, 4, 8)
    assert shared.seconds == pytest.approx([0.2 / 3] * 3)
    assert shared.alone == pytest.approx(10.0)
    assert shared.batched == pytest.approx(4 * 3 / 0.2)
    assert shared.one_host is None


def test_a_slow_host_has_fewer_and_the_last_one_those_that_the_output_leaves() -> None:
    slow = replace(HOST, alone=0.3, batched=0.6)
    assert share_layers(replace(MODEL, output=0), [HOST, slow]).starts == (0, 9)
    assert share_layers(replace(MODEL, output=400), [HOST, HOST]).starts == (0, 8)


def test_a_host_holds_no_more_than_it_has_room_for() -> None:
    small = replace(HOST, room=HOST.fixed + 3 * 100 + 50)
    assert share_layers(MODEL, [small, HOST]).starts == (0, 3)
    with pytest.raises(PlanError, match="12 layers"):
        share_layers(MODEL, [HOST] * 13)
    with pytest.raises(PlanError, match="which have"):
        share_layers(MODEL, [small, small])


def test_one_host_that_is_faster_alone_is_named_if_it_holds_all() -> None:
    slow = replace(HOST, alone=0.4, batched=0.8)
    assert share_layers(MODEL, [slow, HOST]).one_host == 1
    assert share_layers(MODEL, [slow, replace(HOST, room=HOST.fixed + 1000)]).one_host is None


@given(
    st.lists(st.integers(1, 50), min_size=3, max_size=7),
    st.lists(st.floats(0.1, 2.0), min_size=2, max_size=3),
    st.integers(0, 100),
)
@settings(derandomize=True, max_examples=100)
def test_no_other_cut_has_a_faster_slowest_host(layers: list[int], speeds: list[float], output: int) -> None:
    model = LayerBytes(tuple(layers), 0, output)
    hosts = [replace(HOST, batched=speed) for speed in speeds]
    found = share_layers(model, hosts)

    def slowest(starts: tuple[int, ...]) -> float:
        ends = (*starts, len(layers))
        sizes = [sum(layers[start:stop]) + (output if stop == len(layers) else 0) for start, stop in pairwise(ends)]
        return max(size * speed for size, speed in zip(sizes, speeds, strict=True)) / (sum(layers) + output)

    every = [(0, *cuts) for cuts in combinations(range(1, len(layers)), len(hosts) - 1)]
    assert slowest(found.starts) == pytest.approx(min(map(slowest, every)))
    assert max(found.seconds) == pytest.approx(slowest(found.starts))
