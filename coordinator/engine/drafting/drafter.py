"""Guesses of one request: put behind what is known of it, run with it, and verified.

After each guess a token is drawn as ever, and those draws stand that follow right guesses: they are what single steps
would have drawn, as bits depend on no chunk and draws on seed and position alone. Keys and values of wrong guesses are
written anew before anybody reads them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.engine.drafting.draft_price import MOST_GUESSES, DraftPrice
from numoe.coordinator.engine.drafting.prompt_lookup import PromptLookup
from numoe.protos.messages import NOT_DRAWN, Chunk, Draw


class Drafter:
    """Used by the engine's thread alone."""

    __slots__ = ("_lookup", "_tokens", "accepted", "drafted")

    def __init__(self, tokens: NDArray[np.int32], *, guesses: bool) -> None:
        """`tokens`: all that the request may ever have; without `guesses` nothing is ever guessed."""
        self._tokens = tokens
        self._lookup = PromptLookup(tokens) if guesses else None
        self.drafted = self.accepted = 0  # guesses that were run, and those that are part of the answer

    def draft(self, known: int, most: int, price: DraftPrice, streams: int) -> int:
        """Puts up to `most` guesses behind what is known, as many as pay beside so many streams; returns how many."""
        if self._lookup is None:
            return 0
        count = price.worth(self._lookup.chance, streams, min(most, MOST_GUESSES))
        self._tokens[known : known + count] = self._lookup.guesses(count)
        return count

    def verify(self, chunk: Chunk, draws: tuple[Draw, ...]) -> tuple[Draw, ...]:
        """The draws of a chunk that stand: where tokens were guessed, up to the first that was guessed wrong.

        One that could not be drawn behind guesses does not stand: it is drawn again, without any.
        """
        guesses = guesses_of(chunk)
        if not guesses:
            return draws
        self.drafted += len(guesses)
        standing = 1
        while standing < len(draws) and draws[standing - 1].token_id == guesses[standing - 1]:
            standing += 1
        if draws[standing - 1].token_id == NOT_DRAWN:
            standing, self._lookup = standing - 1, None
        return draws[:standing]

    def follow(self, known: int) -> None:
        """The `known`-th token was drawn."""
        if self._lookup is not None:
            self._lookup.follow(known)

    def learn(self, known: int) -> None:
        """Guess by these tokens too from the next one on; takes a while where they are many."""
        if self._lookup is not None:
            self._lookup.learn(known)


def guesses_of(chunk: Chunk) -> list[int]:
    """The tokens at a chunk's end that were guessed."""
    return [] if len(chunk.given) else chunk.token_ids[len(chunk.token_ids) + 1 - chunk.draws :].tolist()
