"""The map of experts: bits of holders, counts in as few bytes as they need, and how evenly both load the workers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from numoe.coordinator.operations.expert_map import ExpertPlaces, Owners, pack
from numoe.coordinator.operations.snapshot import Moved, Packed
from numoe.coordinator.workers.placement import Placement, WorkerPlacement
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.plan import Range
from tests.coordinator.workers.holders import SHARDS

OWNERS = (ExpertOwners(((0,), (1,), (0, 1), (1,))), None)


def placed(owners: Owners, *runs: Range | None) -> Placement:
    """Workers that run these layers, or two that run all."""
    one = SHARDS[0]
    shards = [replace(one, worker=worker) for worker in range(len(runs) or 2)]
    layers = runs or (None, None)
    found = (WorkerPlacement(shard, "ready", layers=run) for shard, run in zip(shards, layers, strict=True))
    return Placement("expert", tuple(found), owners)


PLACED = placed(OWNERS)
HITS = np.array([[10, 0, 20, 10], [4, 4, 0, 0]], np.int64)


def unpack(packed: Packed) -> list[list[int]]:
    kind = {"uint8": "<u1", "uint16": "<u2", "uint32": "<u4", "float64": "<f8"}[packed.type]
    numbers: list[list[int]] = np.frombuffer(packed.data, kind).reshape(packed.shape).astype(int).tolist()
    return numbers


@pytest.mark.parametrize(
    ("most", "kind", "size"),
    [(0, "uint8", 1), (255, "uint8", 1), (256, "uint16", 2), (2**32 - 1, "uint32", 4), (2**32, "float64", 8)],
)
def test_counts_take_as_few_bytes_as_the_largest_needs(most: int, kind: str, size: int) -> None:
    numbers = np.array([[0, most], [1, 0]], np.int64)
    packed = pack(numbers)
    assert (packed.type, len(packed.data), packed.number_bytes) == (kind, 4 * size, size)
    assert unpack(packed) == numbers.tolist()


def test_holders_are_bits_and_layers_split_by_row_have_none() -> None:
    places = ExpertPlaces(PLACED, 4, [700, 900], at=5.0)
    assert unpack(places.map.holders) == [[1, 2, 3, 2], [0, 0, 0, 0]]
    assert (places.map.expert_bytes, places.map.placed_at, places.map.moved) == ((700, 900), 5.0, ())


def test_holders_of_one_expert_share_its_choices_and_all_workers_those_of_rows() -> None:
    told = ExpertPlaces(PLACED, 4, [1, 1], at=0.0).choices(HITS, 10.04)
    assert unpack(told.counts) == HITS.tolist()
    assert told.seconds == 10.0
    assert told.skew == (2.0, 2.0)
    assert told.imbalance == (1.0, 1.0)  # 10 + 20 / 2 on each worker, then halves
    assert told.shares == (0.5, 0.5)
    uneven = ExpertPlaces(PLACED, 4, [1, 1], at=0.0).choices(HITS * np.array([[1, 0, 0, 0], [0, 0, 0, 0]]), 1.0)
    assert (uneven.skew, uneven.imbalance, uneven.shares) == ((4.0, 1.0), (2.0, 1.0), (1.0, 0.0))


def test_nothing_chosen_loads_nobody() -> None:
    told = ExpertPlaces(PLACED, 4, [1, 1], at=0.0).choices(np.zeros_like(HITS), 1.0)
    assert (told.skew, told.imbalance, told.shares) == ((1.0, 1.0), (1.0, 1.0), (0.0, 0.0))


def test_moves_are_known_by_their_last_time() -> None:
    places = ExpertPlaces(PLACED, 4, [1, 1], at=0.0)
    before = places.map
    places.follow(placed(OWNERS), 1.0)
    assert places.map is before
    places.follow(placed((ExpertOwners(((1,), (0,), (0, 1), (1,))), None)), 2.0)
    places.follow(placed((ExpertOwners(((1,), (1,), (0, 1), (0,))), None)), 3.0)
    assert places.map.moved == (Moved(2.0, (0,)), Moved(3.0, (1, 3)))
    assert unpack(places.map.holders)[0] == [2, 2, 3, 1]


def test_a_layer_loads_the_workers_of_its_host_only() -> None:
    first, second = Range(0, 1), Range(1, 2)
    owners = (None, ExpertOwners(((1,), (2,), (1, 2), (2,))))
    places = ExpertPlaces(placed(owners, first, second, second), 4, [1, 1], at=0.0)
    told = places.choices(np.array([[5, 0, 0, 15], [12, 0, 8, 0]], np.int64), 1.0)
    assert told.shares == (0.5, 0.4, 0.1)
    assert told.imbalance == (1.0, 1.6)


def test_layers_that_other_workers_run_from_now_on_begin_a_new_map() -> None:
    first, second = Range(0, 1), Range(1, 2)
    moved = (ExpertOwners(((1,), (1,), (0, 1), (1,))), None)
    places = ExpertPlaces(placed(OWNERS, first, first, second), 4, [1, 1], at=1.0)
    places.follow(placed(moved, first, first, second), 2.0)
    assert places.map.moved == (Moved(2.0, (0,)),)
    places.follow(PLACED, 3.0)
    assert places.map.placed_at == 3.0
    assert not places.map.moved
    assert places.choices(HITS, 1.0).shares == (0.5, 0.5)


def test_holders_beyond_eight_workers_take_more_than_a_byte() -> None:
    places = ExpertPlaces(placed((ExpertOwners(((0,), (8,), (0, 8), (3,))),), *[None] * 9), 4, [1], at=0.0)
    assert (places.map.holders.type, unpack(places.map.holders)) == ("uint16", [[1, 256, 257, 8]])
