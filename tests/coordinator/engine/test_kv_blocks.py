"""The block pool: one owner per block, nothing leaked, reservations kept."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from numoe.coordinator.engine.kv_blocks import BlockPool, BlockTable


@given(
    st.integers(1, 40),
    st.integers(1, 8),
    st.lists(
        st.tuples(st.sampled_from(["open", "grow", "close"]), st.integers(0, 99), st.integers(1, 60)), max_size=60
    ),
)
@settings(deadline=None, derandomize=True, max_examples=200)
def test_blocks_have_one_owner_and_all_come_back(
    blocks: int, block_positions: int, actions: list[tuple[str, int, int]]
) -> None:
    pool = BlockPool(blocks, block_positions)
    tables: list[tuple[BlockTable, int, list[int]]] = []  # table, positions reserved, ids seen last
    for action, which, positions in actions:
        if action == "open" and pool.blocks_for(positions) <= pool.unreserved:
            tables.append((pool.open(positions), positions, []))
        elif action == "grow" and tables:
            table, reserved, before = tables[which % len(tables)]
            ids = table.grow(min(positions, reserved)).tolist()
            assert len(ids) == -(-min(positions, reserved) // block_positions)
            assert ids[: len(before)] == before[: len(ids)]
            tables[which % len(tables)] = (table, reserved, max(ids, before, key=len))
        elif action == "close" and tables:
            tables.pop(which % len(tables))[0].close()
        owned = [block for _, _, ids in tables for block in ids]
        assert len(set(owned)) == len(owned) == pool.used
        assert all(0 <= block < blocks for block in owned)
        assert pool.unreserved == blocks - sum(pool.blocks_for(reserved) for _, reserved, _ in tables)
    for table, _, _ in tables:
        table.close()
        table.close()
    assert (pool.used, pool.unreserved) == (0, blocks)


def test_a_table_handed_out_earlier_does_not_change_as_the_sequence_grows() -> None:
    pool = BlockPool(blocks=4, block_positions=2)
    table = pool.open(8)
    first = table.grow(3)
    copy = first.copy()
    table.grow(8)
    np.testing.assert_array_equal(first, copy)
    assert first.dtype == np.int32
