"""Guesses of one request: put behind what is known of it, run with it, and verified.

After each guess a token is drawn as ever, and those draws stand that follow right guesses: they are what single steps
would have drawn, as bits depend on no chunk and draws on seed and position alone. Keys and values of wrong guesses are
written anew before anybody reads them.

*Guarantees*: what guesses cost a request more than they brought, in steps as they were measured, is at most what it may
lose and one step's guesses, whatever its text does to be guessed wrong.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.engine.drafting.draft_price import MOST_GUESSES, DraftPrice
from numoe.coordinator.engine.drafting.prompt_lookup import PromptLookup
from numoe.protos.messages import NOT_DRAWN, Chunk, Draw

MAY_LOSE_STEPS, MAY_LOSE = 2.0, 0.01  # of a request, and of its tokens that were drawn


class Drafter:
    """Used by the engine's thread alone."""

    __slots__ = ("_lookup", "_prompt", "_streams", "_tokens", "_won", "accepted", "drafted")

    def __init__(self, tokens: NDArray[np.int32], prompt: int, *, guesses: bool) -> None:
        """`tokens`: all that the request may ever have, so many of its prompt; without `guesses` none is ever made."""
        self._tokens, self._prompt = tokens, prompt
        self._lookup = PromptLookup(tokens) if guesses else None
        self._won, self._streams = 0.0, 1  # steps that were saved, less what that took; beside how many, the last one
        self.drafted = self.accepted = 0  # guesses that were run, and those that are part of the answer

    def draft(self, known: int, most: int, price: DraftPrice, streams: int) -> int:
        """Puts up to `most` guesses behind what is known, as many as pay beside so many streams; returns how many."""
        if self._lookup is None or self._won < -MAY_LOSE_STEPS - MAY_LOSE * (known - self._prompt):
            return 0
        count = price.worth(self._lookup.chance, streams, min(most, MOST_GUESSES))
        if count:
            self._tokens[known : known + count] = self._lookup.guesses(count)
            self._won, self._streams = self._won - price.steps(count, streams), streams
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
        self._won += (standing - 1) / self._streams
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
