"""Guesses are what followed the longest of the last tokens that stood before, and how often they are right is known."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from numoe.coordinator.engine.drafting.prompt_lookup import LENGTHS, PromptLookup


def read(text: list[int], prompt: int, learned_late: int = 0) -> PromptLookup:
    """A text whose first tokens are learned at once, and the others one by one, so many tokens later."""
    lookup = PromptLookup(np.array(text, np.int32))
    lookup.learn(prompt)
    for known in range(prompt + 1, len(text) + 1):
        lookup.follow(known)
        if known - learned_late > prompt:
            lookup.learn(known - learned_late)
    return lookup


def expected_place(text: list[int]) -> int:
    """Where the text goes on, looked for everywhere; 0: nowhere."""
    for length in LENGTHS:
        ends = [end for end in range(length, len(text)) if text[end - length : end] == text[-length:]]
        if len(text) > length and ends:
            return ends[-1]
    return 0


@pytest.mark.parametrize("letters", [1, 2, 3, 10])
def test_a_guess_is_what_followed_the_last_place_of_the_longest_match(letters: int) -> None:
    random = Random(letters)
    guessed = 0
    for length in range(3, 60):
        text = [random.randrange(letters) for _ in range(length)]
        lookup = read(text, prompt=random.randrange(length - 1))
        if place := expected_place(text):
            period = text[place:]
            assert lookup.guesses(12).tolist() == (period * 12)[:12]
            guessed += 1
        else:
            assert lookup.chance == 0.0
    assert guessed > 10


def test_how_likely_guesses_are_is_learned_from_all_that_might_have_been_drafted() -> None:
    passage = list(range(100, 140))
    copied = read([*passage, 1, 2, *passage], prompt=42)
    assert copied.chance > 0.9
    assert copied.guesses(2).tolist() == [1, 2]
    other = read([*passage, 1, 2, *passage, 7, 8, 9], prompt=42)
    assert other.chance == 0.0


def test_a_text_that_goes_on_differently_each_time_is_known_as_such() -> None:
    text = [token for index in range(50) for token in (1, 2, 10 + index)]
    lookup = read([*text, 1, 2], prompt=2)
    assert lookup.guesses(1)[0] == text[-1]
    assert lookup.chance == 0.0


def test_a_text_that_is_learned_late_has_the_same_guesses_where_it_repeats_what_is_long_past() -> None:
    text = [*range(100, 200), *range(120, 150)]
    assert read(text, prompt=50, learned_late=9).guesses(8).tolist() == list(range(150, 158))
