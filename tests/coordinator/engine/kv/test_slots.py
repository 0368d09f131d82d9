"""Which slot a request has, and what is left in it."""

from __future__ import annotations

import numpy as np

from numoe.coordinator.engine.kv.slots import NOTHING, Left, Slots
from numoe.protos.expert_reduction import ALL_EXPERTS

KEYS = [bytes([number]) for number in range(40)]


def left(*keys: bytes) -> Left:
    return Left(np.arange(4 * len(keys), dtype=np.int32), ALL_EXPERTS, keys)


def test_a_request_has_the_slot_that_was_left_longest_ago() -> None:
    slots = Slots(3)
    for who in "abc":
        slots.enter(who, KEYS, None)
    assert [slots.number_of(who) for who in "abcd"] == [0, 1, 2, None]
    for who in "bca":
        slots.leave(who)
    for who in "abc":
        slots.enter(who, KEYS, None)
    assert [slots.number_of(who) for who in "abc"] == [1, 2, 0]


def test_who_goes_on_with_what_a_slot_has_gets_that() -> None:
    slots = Slots(3)
    for who, wanted, keys in (("a", 0, KEYS[:3]), ("b", 2, KEYS[:9]), ("c", 1, KEYS[20:])):
        slots.enter(who, [], wanted)
        slots.leave(who, left(*keys))
    slots.enter("d", KEYS[:30], None)
    slots.enter("e", KEYS[:31], None)  # begins as slot 0 does, but for less than a tenth
    assert [slots.number_of(who) for who in "de"] == [2, 0]
    assert not slots.is_free(2)
    assert slots.is_free(1)


def test_several_may_be_at_work_in_the_slot_that_they_name_and_the_last_one_leaves_what_it_has() -> None:
    slots = Slots(2)
    for who in "ab":
        slots.enter(who, KEYS, 1)
    slots.leave("b", left(b"b"))
    assert not slots.is_free(1)
    slots.leave("a", left(b"a"))
    assert slots.is_free(1)
    assert (slots.left[0], slots.left[1].keys) == (NOTHING, (b"a",))
    slots.leave("a", left(b"c"))
    slots.enter("d", KEYS, 1)
    slots.leave("d")
    assert slots.left[1].keys == (b"a",)
    slots.forget()
    assert slots.left == [NOTHING, NOTHING]


def test_the_first_blocks_have_their_tokens() -> None:
    first = left(*KEYS[:5]).first(2)
    assert (first.tokens.tolist(), first.keys) == ([*range(8)], tuple(KEYS[:2]))
    assert NOTHING.first(3).keys == ()
