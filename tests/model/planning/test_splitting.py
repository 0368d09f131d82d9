"""Models are split evenly, each head and row once, whatever the sizes are."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.plan import MOST_WORKERS, PANEL_ROWS, Range, kv_heads_of, split_by, split_evenly
from numoe.model.planning.plan_checks import check_plan
from numoe.model.planning.splitting import PlanOptions, Shares, cut_anew, make_plan
from tests.model.planning.examples import machine
from tests.tiny_model import TinyShape, tiny_spec

shapes = st.builds(
    lambda groups, kv_heads, width, experts, expert_width, vocabulary: TinyShape(
        query_heads=groups * kv_heads,
        kv_heads=kv_heads,
        width=width,
        experts=experts,
        expert_width=expert_width,
        vocabulary=vocabulary,
    ),
    st.integers(1, 16),
    st.integers(1, 9),
    st.integers(1, 600),
    st.integers(2, 4),
    st.integers(1, 300),
    st.integers(1, 2000),
)
counts = st.integers(1, MOST_WORKERS)


@given(shapes, counts)
def test_every_head_and_row_is_owned_exactly_once(shape: TinyShape, workers: int) -> None:
    made = make_plan(tiny_spec(shape), machine(4), PlanOptions(workers=workers))
    owned = {
        shape.query_heads: [shard.heads for shard in made.shards],
        shape.width: [shard.width_rows for shard in made.shards],
        shape.expert_width: [shard.expert_rows for shard in made.shards],
        shape.vocabulary: [shard.vocabulary for shard in made.shards],
    }
    for size, ranges in owned.items():
        assert sorted(index for part in ranges for index in range(part.start, part.stop)) == list(range(size))


@given(st.integers(1, 5000), st.sampled_from([1, PANEL_ROWS]), counts)
def test_parts_are_whole_units_and_differ_by_at_most_one(size: int, unit: int, parts: int) -> None:
    ranges = split_evenly(size, unit, parts)
    assert all(part.start % unit == 0 or part.start == size for part in ranges)
    assert all(part.stop % unit == 0 or part.stop == size for part in ranges)
    units = [-(-part.size // unit) for part in ranges]
    assert max(units) - min(units) <= 1


@given(shapes, counts)
def test_key_value_heads_are_just_those_that_the_query_heads_read(shape: TinyShape, workers: int) -> None:
    made = make_plan(tiny_spec(shape), machine(4), PlanOptions(workers=workers))
    group = shape.query_heads // shape.kv_heads
    for shard in made.shards:
        read = {head // group for head in range(shard.heads.start, shard.heads.stop)}
        assert set(range(shard.kv_heads.start, shard.kv_heads.stop)) == read


def test_a_tiny_model_leaves_workers_without_heads() -> None:
    spec = tiny_spec(TinyShape(query_heads=4, kv_heads=2, width=32))
    made = make_plan(spec, machine(8), PlanOptions(workers=8))
    assert [shard.heads.size for shard in made.shards] == [0, 1] * 4
    assert [shard.kv_heads.size for shard in made.shards] == [0, 1] * 4
    assert kv_heads_of(spec, Range(1, 1)).size == 0
    assert sum(shard.width_rows.size for shard in made.shards) == 32


def test_the_same_arguments_give_the_same_plan(recorded_machines: Path) -> None:
    topology = read_topology(recorded_machines / "four-nodes")
    spec = tiny_spec(TinyShape())
    assert make_plan(spec, topology) == make_plan(spec, topology)


weights = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=MOST_WORKERS)


@given(st.integers(1, 5000), st.sampled_from([1, PANEL_ROWS]), weights)
def test_unequal_parts_are_whole_units_within_one_of_their_proportion(
    size: int, unit: int, weights: list[float]
) -> None:
    parts = split_by(size, unit, weights)
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == size
    assert all(part.start % unit == 0 or part.start == size for part in parts)
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part.size - size * weight / sum(weights)) <= 1.5 * unit


@given(shapes, weights)
def test_a_plan_that_is_cut_anew_is_as_whole_as_before(shape: TinyShape, weights: list[float]) -> None:
    spec = tiny_spec(shape)
    made = make_plan(spec, machine(4), PlanOptions(workers=len(weights)))
    shares = Shares(*(tuple(weights[::order]) for order in (1, -1, 1, -1)))
    cut = cut_anew(made, spec, shares)
    check_plan(cut, spec)
    assert [(shard.node, shard.cpus) for shard in cut.shards] == [(shard.node, shard.cpus) for shard in made.shards]
