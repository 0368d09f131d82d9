"""The map of experts: bits of holders, counts in as few bytes as they need, and how evenly both load the workers."""

from __future__ import annotations

import numpy as np
import pytest

from numoe.coordinator.operations.expert_map import ExpertPlaces, pack
from numoe.coordinator.operations.snapshot import Moved, Packed
from numoe.model.planning.expert_owners import ExpertOwners

OWNERS = (ExpertOwners(((0,), (1,), (0, 1), (1,))), None)
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
    places = ExpertPlaces(OWNERS, 4, 2, [700, 900], at=5.0)
    assert unpack(places.map.holders) == [[1, 2, 3, 2], [0, 0, 0, 0]]
    assert (places.map.expert_bytes, places.map.placed_at, places.map.moved) == ((700, 900), 5.0, ())


def test_holders_of_one_expert_share_its_choices_and_all_workers_those_of_rows() -> None:
    told = ExpertPlaces(OWNERS, 4, 2, [1, 1], at=0.0).choices(HITS, 10.04)
    assert unpack(told.counts) == HITS.tolist()
    assert told.seconds == 10.0
    assert told.skew == (2.0, 2.0)
    assert told.imbalance == (1.0, 1.0)  # 10 + 20 / 2 on each worker, then halves
    assert told.shares == (0.5, 0.5)
    uneven = ExpertPlaces(OWNERS, 4, 2, [1, 1], at=0.0).choices(HITS * np.array([[1, 0, 0, 0], [0, 0, 0, 0]]), 1.0)
    assert (uneven.skew, uneven.imbalance, uneven.shares) == ((4.0, 1.0), (2.0, 1.0), (1.0, 0.0))


def test_nothing_chosen_loads_nobody() -> None:
    told = ExpertPlaces(OWNERS, 4, 2, [1, 1], at=0.0).choices(np.zeros_like(HITS), 1.0)
    assert (told.skew, told.imbalance, told.shares) == ((1.0, 1.0), (1.0, 1.0), (0.0, 0.0))


def test_moves_are_known_by_their_last_time() -> None:
    places = ExpertPlaces(OWNERS, 4, 2, [1, 1], at=0.0)
    before = places.map
    places.follow(OWNERS, 1.0)
    assert places.map is before
    places.follow((ExpertOwners(((1,), (0,), (0, 1), (1,))), None), 2.0)
    places.follow((ExpertOwners(((1,), (1,), (0, 1), (0,))), None), 3.0)
    assert places.map.moved == (Moved(2.0, (0,)), Moved(3.0, (1, 3)))
    assert unpack(places.map.holders)[0] == [2, 2, 3, 1]
