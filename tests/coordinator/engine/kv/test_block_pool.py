"""The block pool: nobody writes a block that others hold, nothing leaks, and what is found is what was named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from numoe.coordinator.engine.kv.block_keys import BlockKeys
from numoe.coordinator.engine.kv.block_pool import BlockPool, BlockTable, fill
from numoe.protos.expert_reduction import ALL_EXPERTS, ExpertReduction
from numoe.protos.messages import NO_BLOCK


def keys_of(tokens: Sequence[int], size: int, experts: ExpertReduction = ALL_EXPERTS) -> list[bytes]:
    """Of the full blocks of these tokens."""
    return BlockKeys(experts, np.array(tokens, np.int32), size).between(0, len(tokens) // size)


def _read(
    content: dict[int, tuple[int, int]],
    filled: dict[int, int],
    size: int,
    text: int,
    keys: list[bytes],
    most: int,
    blocks: Sequence[tuple[int, bytes]],
) -> int:
    """As workers read blocks of a text, so many at most."""
    for block, key in blocks[:most]:
        content[block], filled[block] = (text, keys.index(key)), size
    return len(blocks[:most])


@given(
    st.integers(1, 40),
    st.integers(1, 8),
    st.lists(
        st.tuples(
            st.sampled_from(["open", "grow", "close", "drop", "fill", "copy", "forget"]),
            st.integers(0, 99),
            st.integers(1, 60),
        ),
        max_size=80,
    ),
)
@settings(derandomize=True, max_examples=300)
def test_blocks_are_shared_by_name_written_by_one_and_all_come_back(
    blocks: int, size: int, actions: list[tuple[str, int, int]]
) -> None:
    """Each table holds positions of one of two texts; what a block holds is checked as a worker would read it."""
    pool = BlockPool(blocks, size)
    tables: list[tuple[BlockTable, int]] = []  # and which text
    content: dict[int, tuple[int, int]] = {}  # block -> text and place in it
    run: dict[BlockTable, int] = {}  # positions
    filled: dict[int, int] = {}  # block -> positions of it that were run, or copied
    names = [BlockKeys(ALL_EXPERTS, np.array([text] * 64 * size, np.int32), size) for text in range(2)]
    texts = [keys.between(0, 64) for keys in names]
    for action, which, positions in actions:
        most = min(pool.blocks_for(positions), blocks)
        if action in ("open", "copy"):
            table, text = pool.open(most * size), which % 2
            tables.append((table, text))
            reused = table.reuse(texts[text][: which % (most + 1)])
            run[table] = reused * size
            if action == "copy" and reused < most and pool.available:
                copied, source = table.begin_alike(names[text].text(reused, positions))
                own, place = table.ids[-1:].tolist(), (text, reused)
                assert copied <= max(0, positions - run[table])
                for block in [source] if source != NO_BLOCK else own[: min(copied, 1)]:
                    assert copied <= filled[block]
                    assert content[block] == place
                if copied:
                    content[own[0]], filled[own[0]] = place, copied
                    assert pool.version(own[0]) > 0
                run[table] += copied
        elif action == "grow" and tables:
            table, text = tables[which % len(tables)]
            before = table.ids.tolist()
            wanted = min(positions, table.most * size, (len(before) + pool.available) * size)
            ids = table.grow(wanted).tolist()
            assert ids[: len(before)] == before[: len(ids)]
            for at in range(len(before), len(ids)):
                content[ids[at]] = text, at
            for at in range(run[table] // size, len(ids)):
                filled[ids[at]] = min(size, wanted - at * size)
            run[table] = max(run[table], wanted)
            table.name_run(names[text], run[table])
        elif action == "close" and tables:
            table, text = tables.pop(which % len(tables))
            if which % 3:
                table.name_end(names[text], run[table])
            table.close()
        elif action == "drop":
            key, held = texts[which % 2][positions - 1], {block for table, _ in tables for block in table.ids.tolist()}
            block = pool.blocks_of([key])
            versions = [pool.version(one) for one in block]
            assert pool.drop(key) == held.isdisjoint(block)
            assert (pool.blocks_of([key]) == block) == (not held.isdisjoint(block) or not block)
            assert ([pool.version(one) for one in block] == versions) == (not held.isdisjoint(block) or not block)
        elif action == "fill":
            text, free = which % 2, pool.available
            keys = texts[text][:positions]
            read = partial(_read, content, filled, size, text, keys, positions // 2)
            found = pool.find(keys)[0]
            there = fill(pool, keys, read)
            assert found <= there == pool.find(keys)[0]
            assert pool.available == free
        elif action == "forget":
            while tables:
                tables.pop()[0].close()
            pool.forget()
            assert (pool.cached, pool.find(texts[0])) == (0, (0, 0))
        for table, text in tables:
            assert [content[block] for block in table.ids.tolist()] == [(text, n) for n in range(table.ids.size)]
        holders = Counter(block for table, _ in tables for block in table.ids.tolist())
        assert (pool.used, pool.available) == (len(holders), blocks - len(holders))
        assert pool.cached <= pool.available
    for table, _ in tables:
        table.close()
        table.close()
    assert (pool.used, pool.available) == (0, blocks)


def test_what_was_named_is_found_as_far_as_tokens_and_experts_are_alike() -> None:
    pool, tokens = BlockPool(blocks=8, block_positions=4), list(range(14))
    table = pool.open(16)
    table.grow(14)
    table.name(keys_of(tokens, 4))
    assert pool.find(keys_of(tokens, 4)) == (3, 3)
    table.close()
    assert pool.find(keys_of(tokens, 4)) == (3, 0)
    assert pool.find(keys_of([*tokens[:7], 99, *tokens[8:]], 4)) == (1, 0)
    assert pool.find(keys_of([99, *tokens[1:]], 4)) == (0, 0)
    assert pool.find(keys_of(tokens, 4, ExpertReduction(1, 0.5))) == (0, 0)
    other = pool.open(16)
    assert other.reuse(keys_of(tokens, 4)) == 3


def test_what_was_used_longest_ago_goes_first_and_the_end_of_a_text_before_its_beginning() -> None:
    pool, old, new = BlockPool(blocks=6, block_positions=2), keys_of([1] * 6, 2), keys_of([2] * 6, 2)
    for keys in (old, new):
        table = pool.open(6)
        table.grow(6)
        table.name(keys)
        table.close()
    assert pool.open(6).reuse(old[:1]) == 1  # which so is held
    taker = pool.open(6)
    taker.grow(4)
    assert (pool.find(old), pool.find(new), pool.evicted) == ((1, 1), (3, 0), 2)
    taker.grow(6)
    assert (pool.find(old), pool.find(new), pool.evicted) == ((1, 1), (2, 0), 3)


def test_two_that_ran_the_same_at_once_each_keep_their_own() -> None:
    pool, keys = BlockPool(blocks=4, block_positions=2), keys_of([1] * 4, 2)
    tables = [pool.open(4), pool.open(4)]
    for table in tables:
        table.grow(4)
    for table in tables:
        table.name(keys)
    tables[0].close()
    assert (pool.cached, pool.find(keys)) == (2, (2, 0))
    tables[1].close()
    assert (pool.cached, pool.available) == (2, 4)


def test_nothing_is_found_where_nothing_is_cached() -> None:
    pool, keys = BlockPool(blocks=4, block_positions=2, caches=False), keys_of([1] * 4, 2)
    table = pool.open(4)
    table.grow(4)
    table.name(keys)
    table.close()
    assert (pool.cached, pool.find(keys)) == (0, (0, 0))


def test_a_table_handed_out_earlier_does_not_change_as_the_sequence_grows() -> None:
    pool = BlockPool(blocks=4, block_positions=2)
    table = pool.open(8)
    first = table.grow(3)
    copy = first.copy()
    table.grow(8)
    np.testing.assert_array_equal(first, copy)
    assert first.dtype == np.int32


def test_what_is_dropped_is_free_and_whoever_is_copying_it_sees_that_it_holds_something_else() -> None:
    pool, keys = BlockPool(blocks=4, block_positions=2), keys_of([1] * 4, 2)
    table = pool.open(4)
    first, second = table.grow(4).tolist()
    table.name(keys)
    assert not pool.drop(keys[0])  # it has a holder
    table.close()
    before = [pool.version(block) for block in (first, second)]
    assert pool.drop(keys[0])
    assert (pool.cached, pool.available, pool.blocks_of([keys[0]]), pool.blocks_of([keys[1]])) == (1, 4, [], [second])
    assert [pool.version(block) for block in (first, second)] == [before[0] + 1, before[1]]
    assert pool.drop(keys[0])  # there is nothing of it


def run_and_closed(pool: BlockPool, keys: BlockKeys, positions: int) -> list[int]:
    """The blocks of a text that was run, and ended."""
    table = pool.open(positions)
    ids: list[int] = table.grow(positions).tolist()
    table.name_run(keys, positions)
    table.name_end(keys, positions)
    table.close()
    return ids


def keys_with(tokens: Sequence[int], experts: ExpertReduction = ALL_EXPERTS, asker: str = "") -> BlockKeys:
    return BlockKeys(experts, np.array(tokens, np.int32), 4, asker)


def test_a_block_begins_as_the_one_that_goes_on_alike_the_longest() -> None:
    pool, text = BlockPool(blocks=12, block_positions=4), list(range(8))
    texts = [[*text, *rest] for rest in ((50, 51, 60, 61, 70), (50, 51, 52), (9, 51, 52))]
    ids = [run_and_closed(pool, keys_with(tokens), len(tokens)) for tokens in texts]
    assert pool.cached == 2 + 2 + 1 + 1
    for rest, alike, source in (
        ((50, 51, 60, 62), 3, ids[0][2]),  # a full one
        ((50, 51, 52, 53), 3, ids[1][2]),  # one that is not
        ((9, 9), 1, ids[2][2]),
        ((8, 51), 0, NO_BLOCK),
        ((), 0, NO_BLOCK),
    ):
        keys, table = keys_with([*text, *rest]), pool.open(12)
        assert table.reuse(keys.between(0, 2)) == 2
        assert table.begin_alike(keys.text(2, 8 + len(rest))) == (alike, source)
        assert len(table.ids) == 2 + (alike > 0)
        assert source not in table.ids
        table.close()
    other = keys_with(texts[0], ExpertReduction(1, 0.5))
    assert pool.open(12).begin_alike(other.text(0, 4)) == (0, NO_BLOCK)
    assert pool.used == 0


def test_a_part_of_a_block_is_copied_by_who_asked_for_it_before_and_by_nobody_else() -> None:
    pool = BlockPool(blocks=8, block_positions=4)
    run_and_closed(pool, keys_with(range(7), asker="a"), 7)
    other, table = keys_with(range(7), asker="b"), pool.open(8)
    assert table.reuse(other.between(0, 1)) == 1  # who knows a whole block knows what stands in it
    assert table.begin_alike(other.text(1, 6)) == (0, NO_BLOCK)
    table.close()
    run_and_closed(pool, other, 7)
    table = pool.open(8)
    assert table.reuse(other.between(0, 1)) == 1
    assert table.begin_alike(other.text(1, 6))[0] == 2  # of the same block: the other one had the same name
    assert pool.cached == 1
    table.close()


def test_who_needs_the_last_block_that_nobody_holds_has_it_without_a_copy() -> None:
    pool, keys = BlockPool(blocks=2, block_positions=4), keys_with(range(7))
    first, second = run_and_closed(pool, keys, 7)
    table, version = pool.open(8), pool.version(second)
    assert table.reuse(keys.between(0, 1)) == 1
    assert table.begin_alike(keys.text(1, 6)) == (2, NO_BLOCK)
    assert table.ids.tolist() == [first, second]
    assert pool.version(second) > version  # it is written from now on
    table.close()
    table = pool.open(8)
    assert table.begin_alike(keys.text(1, 7)) == (0, NO_BLOCK)


def test_nothing_of_what_was_dropped_evicted_or_lost_is_copied() -> None:
    pool, keys = BlockPool(blocks=4, block_positions=4), keys_with(range(7))

    def evict() -> None:
        table = pool.open(16)
        table.grow(16)
        table.close()

    for lose in (lambda: pool.drop(keys.text(1, 7).key), evict, pool.forget):
        run_and_closed(pool, keys, 7)
        lose()
        assert pool.open(8).begin_alike(keys.text(1, 7)) == (0, NO_BLOCK)
        assert pool.available == 4
