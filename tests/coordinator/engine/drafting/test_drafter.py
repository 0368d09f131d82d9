"""No text makes guesses cost more than a request may lose, and what a text repeats is worth it."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import numpy as np
import pytest

from numoe.coordinator.engine.drafting.draft_price import MOST_GUESSES, DraftPrice
from numoe.coordinator.engine.drafting.drafter import MAY_LOSE, MAY_LOSE_STEPS, Drafter
from numoe.protos.messages import Chunk, Draw

TOKENS = 2000
PASSAGE = 1000  # tokens of the prompt, each its own


def repeating(runs: Iterator[int]) -> list[int]:
    """Pieces of the passage, each so many tokens long, at places where no piece before went on."""
    random, text = Random(3), list[int]()
    while len(text) < TOKENS:
        start = random.randrange(PASSAGE - 200)
        text += range(start, start + 3 + next(runs))  # two of them are what the piece is found by
    return text[:TOKENS]


def same(length: int) -> Iterator[int]:
    while True:
        yield length


def any_length(most: int) -> Iterator[int]:
    random = Random(most)
    while True:
        yield random.randrange(most)


def run(text: list[int], price_of_guess: float, streams: int) -> float:
    """Draws the text by steps of one request that drafts beside others that do not; returns the time, in steps."""
    tokens = np.array([*range(PASSAGE), *text], np.int32)
    drafter, price, seconds, known = Drafter(tokens.copy(), PASSAGE, guesses=True), DraftPrice(), 0.0, PASSAGE
    price.note(streams, 0, 1.0)
    drafter.learn(known)
    while known < len(tokens):
        guesses = drafter.draft(known, min(MOST_GUESSES, len(tokens) - known - 1), price, streams)
        took = 1.0 + price_of_guess * guesses
        price.note(streams, guesses, took)
        seconds += took
        chunk = Chunk(known - 1, drafter._tokens[known - 1 : known + guesses], tokens[:0], draws=1 + guesses)
        draws = tuple(Draw(int(token), 0.0) for token in tokens[known : known + 1 + guesses])
        for draw in drafter.verify(chunk, draws):
            drafter._tokens[known] = draw.token_id
            known += 1
            drafter.follow(known)
        drafter.learn(known)
    return seconds


@pytest.mark.parametrize("streams", [1, 4])
@pytest.mark.parametrize("price", [0.1, 0.4, 0.7, 0.95])
@pytest.mark.parametrize("length", [1, 3, 8, 21, 80])
def test_no_text_loses_more_than_it_may(length: int, price: float, streams: int) -> None:
    for runs in (same(length), any_length(2 * length)):
        lost = run(repeating(runs), price, streams) - TOKENS
        assert lost < MAY_LOSE_STEPS + MAY_LOSE * TOKENS + MOST_GUESSES * price


@pytest.mark.parametrize(("price", "gain"), [(0.1, 3.0), (0.4, 1.6), (0.7, 1.2)])
def test_a_text_that_copies_long_pieces_is_faster(price: float, gain: float) -> None:
    assert TOKENS / run(repeating(same(150)), price, streams=1) > gain
