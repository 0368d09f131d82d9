"""What would go on with a repetition is penalised as the definition says, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numoe.coordinator.requests.repeats import LARGEST_PENALTY, LONGEST, MOST_REPEATS, WINDOW, Dry, Repeats
from numoe.coordinator.requests.seeds import seed_of_answer
from tests.coordinator.tiny_tokenizer import END_ID, LETTERS, TOKENIZER

A, B, C, D, E = LETTERS


def penalties(tokens: list[int], dry: Dry) -> dict[int, float]:
    found, values = Repeats(dry, TOKENIZER).penalties(np.array(tokens, np.int32))
    assert (found.dtype.name, values.dtype.name) == ("int32", "float32")
    return dict(zip(found.tolist(), values.tolist(), strict=True))


def by_definition(tokens: list[int], dry: Dry, breaking: set[int]) -> dict[int, float]:
    """For each place the longest common end, one token after the other."""
    tokens, longest = tokens[-dry.window :], dict[int, int]()
    for place in range(len(tokens) - 1):
        length = 0
        while length <= place and length < LONGEST:
            one, other = tokens[place - length], tokens[len(tokens) - 1 - length]
            if one != other or one in breaking:
                break
            length += 1
        if length and length >= dry.allowed_length:
            longest[tokens[place + 1]] = max(longest.get(tokens[place + 1], 0), length)
    return {
        token: float(np.float32(min(dry.multiplier * dry.base ** (length - dry.allowed_length), LARGEST_PENALTY)))
        for token, length in longest.items()
    }


@given(
    st.lists(st.sampled_from([A, B, C, END_ID]), min_size=1, max_size=80),
    st.integers(1, 5),
    st.integers(1, 100),
    st.floats(1.0, 4.0),
    st.sampled_from([(), ("c",), ("x", "b")]),
)
@settings(max_examples=300)
def test_penalties_are_those_of_the_definition(
    tokens: list[int], allowed: int, window: int, base: float, breakers: tuple[str, ...]
) -> None:
    dry = Dry(0.8, base, allowed, window, breakers)
    breaking = {END_ID} | {A + index for index, letter in enumerate("abc") if letter in breakers}
    assert penalties(tokens, dry) == by_definition(tokens, dry, breaking)


def test_the_letters_of_the_definition_are_those_of_the_vocabulary() -> None:
    assert [TOKENIZER.token_bytes(A + index) for index in range(3)] == [b"a", b"b", b"c"]


def test_the_longest_repetition_counts() -> None:
    tokens = [A, B, C, D, B, C, E, A, B, C]
    assert penalties(tokens, Dry(1.0, 2.0, 2)) == {D: 2.0, E: 1.0}
    assert penalties(tokens, Dry(1.0, 2.0, 3)) == {D: 1.0}
    assert penalties(tokens, Dry(1.0, 2.0, 4)) == {}
    assert penalties(tokens, Dry(1.0, 2.0, 2, window=6)) == {E: 1.0}


def test_very_many_repetitions_and_very_long_ones_are_bounded() -> None:
    assert penalties([A] * (2 * WINDOW), Dry(5.0, 4.0, 1)) == {A: LARGEST_PENALTY}
    many = [token for number in range(1, 300) for token in (A, number)] + [A]
    assert len(penalties(many, Dry(1.0, 2.0, 1))) == len(set(range(1, 300))) <= MOST_REPEATS


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_the_first_answer_has_the_seed_of_the_question_and_the_others_ones_of_their_own(seed: int) -> None:
    seeds = [seed_of_answer(seed, answer) for answer in range(64)]
    assert seeds[0] == seed
    assert len(set(seeds)) == 64
    assert all(0 <= one < 2**64 for one in seeds)
    assert not set(seeds[1:]) & {seed_of_answer((seed + 1) % 2**64, answer) for answer in range(1, 64)}
