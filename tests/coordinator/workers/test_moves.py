"""Which experts move, in which order, and what is refused."""

from __future__ import annotations

import pytest

from numoe.coordinator.workers.moves import make_moves, wanted_moves
from numoe.protos.errors import InvalidRequest, PlanError
from tests.coordinator.workers.holders import SPEC, Holders, whole


async def test_moves_are_made_in_their_order_and_told() -> None:
    workers = whole()
    workers.count(100)
    moves = wanted_moves(SPEC, workers, workers.expert_hits())
    assert [made async for made in make_moves(workers, moves)] == list(range(len(moves) + 1))
    assert workers.moves == moves


def test_rows_of_experts_cannot_move_and_unknown_workers_not_drain() -> None:
    rows = Holders((None,) * SPEC.layers)
    with pytest.raises(PlanError, match=r"^experts are split by row, there are no whole ones to move"):
        wanted_moves(SPEC, rows, rows.expert_hits())
    with pytest.raises(InvalidRequest, match="drain_worker: is 2; the workers are 0 to 1"):
        wanted_moves(SPEC, whole(), whole().expert_hits(), drained=2)
