"""Keys get equal shares of tokens, each in its own order, and what is shown is what is taken."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from numoe.coordinator.engine.scheduling.fair_queue import QUANTUM_TOKENS, FairQueue


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of a test."""

    key: str
    cost: int
    number: int = 0


def queue_of(*items: Asked) -> FairQueue[Asked]:
    queue: FairQueue[Asked] = FairQueue(lambda item: item.key, lambda item: item.cost)
    for item in items:
        queue.append(item)
    return queue


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "add", "add", "take", "back", "drop"]), st.sampled_from("abc"), st.integers(1, 5000)
        ),
        max_size=60,
    )
)
@settings(derandomize=True, max_examples=300)
def test_what_is_shown_is_taken_in_order_of_each_key_and_nothing_is_lost(actions: list[tuple[str, str, int]]) -> None:
    queue, there, number = queue_of(), list[Asked](), 0
    for action, key, cost in actions:
        if action == "add":
            number += 1
            there.append(Asked(key, cost, number))
            queue.append(there[-1])
        elif action == "drop":
            queue.keep(lambda item, key=key, cost=cost: item.key != key or item.cost > cost)  # type: ignore[misc]
            there = [item for item in there if item.key != key or item.cost > cost]
        elif there:
            shown = queue.head(3)
            assert len(shown) == min(3, len(there))
            for item in shown:
                assert queue.take() is item
                assert item.number == min(one.number for one in there if one.key == item.key)
                there.remove(item)
            if action == "back":
                for item in reversed(shown):
                    queue.put_back(item)
                assert queue.head(len(shown)) == shown
                for item in shown:
                    assert queue.take() is item
        assert sorted(item.number for item in queue) == sorted(item.number for item in there)
        assert len(queue) == len(there)


@given(
    st.lists(st.integers(1, 3000), min_size=40, max_size=40), st.lists(st.integers(1, 300), min_size=400, max_size=400)
)
@settings(derandomize=True, max_examples=50)
def test_two_keys_get_equal_shares_of_tokens_whatever_their_requests_cost(large: list[int], small: list[int]) -> None:
    queue = queue_of(*(Asked("large", cost) for cost in large), *(Asked("small", cost) for cost in small))
    got = Counter[str]()
    while {item.key for item in queue} == {"large", "small"}:
        item = queue.take()
        got[item.key] += item.cost
        assert abs(got["large"] - got["small"]) <= QUANTUM_TOKENS + max(large) + max(small)


def test_one_who_asks_once_waits_for_no_more_than_a_turn_of_who_asks_without_end() -> None:
    queue = queue_of(*(Asked("flood", 200, number) for number in range(100)))
    for _ in range(50):
        queue.take()
    queue.append(Asked("once", 200))
    assert "once" in [item.key for item in queue.head(3)]


@given(st.lists(st.integers(1, 60), min_size=40, max_size=40), st.integers(0, 20), st.integers(1, QUANTUM_TOKENS))
@settings(derandomize=True, max_examples=200)
def test_whenever_one_comes_another_key_gets_a_quantum_and_a_request_more_at_most(
    costs: list[int], before: int, cost: int
) -> None:
    queue = queue_of(*(Asked("flood", cost) for cost in costs))
    for _ in range(before):
        queue.take()
    queue.append(Asked("once", cost))
    got = 0
    while (item := queue.take()).key != "once":
        got += item.cost
    assert got <= QUANTUM_TOKENS + max(costs)


def test_who_asked_for_nothing_saved_nothing_up() -> None:
    queue = queue_of(Asked("a", 10), *(Asked("b", 200, number) for number in range(20)))
    for _ in range(10):
        queue.take()
    for number in range(20):
        queue.append(Asked("a", 200, number))
    assert Counter(queue.take().key for _ in range(10))["a"] <= 6
