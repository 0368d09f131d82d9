"""Guesses of what follows a text, from the text itself (prompt lookup): what followed its last tokens before.

The last 8, 4 and 2 tokens are looked for in all that came before, prompt and answer alike; where the longest that is
found stood last, the text goes on as it will now, if it repeats itself. Every guess is compared with the token that
came, whether it was drafted or not. So how often they are right is known before anything is run for them, and a text
that repeats nothing pays for looking only: 3 us a token, and 13 us more while workers compute, as does a prompt with
1 us a token. An entry of the index takes some 150 bytes, a token three of them: less than a hundredth of its keys and
values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LENGTHS = (8, 4, 2)  # of what is looked for, in tokens; of each is known how often it guesses right
MEMORY = 0.9  # of that share: the last ten guesses count most; with the last five some texts lost a fifth, simulated
_NOWHERE = 0  # no text goes on at its first token


class PromptLookup:
    """Of one text; used by one thread at a time."""

    __slots__ = ("_goes_on", "_known", "_learned", "_length", "_places", "_shares", "_tokens")

    def __init__(self, tokens: NDArray[np.int32]) -> None:
        """`tokens`: all that the text may ever have."""
        self._tokens, self._known, self._learned = tokens, 0, 0
        self._places: dict[int, dict[bytes, int]] = {length: {} for length in LENGTHS}  # tokens: where they end
        self._shares = dict.fromkeys(LENGTHS, 0.0)  # of guesses that were right
        self._goes_on, self._length = _NOWHERE, 0  # as from there, where so many tokens before are the same

    @property
    def chance(self) -> float:
        """How likely the next token is the one that is guessed; 0: none is."""
        return self._shares[self._length] if self._goes_on else 0.0

    def learn(self, known: int) -> None:
        """Note where its first `known` tokens stand, to find them again from the next one on."""
        for length, places in self._places.items():
            first = max(self._learned + 1, length) - length
            spelled, ends = self._tokens[first:known].tobytes(), range(first + length, known + 1)
            places.update(
                zip([spelled[4 * place : 4 * (place + length)] for place in range(len(ends))], ends, strict=True)
            )
        self._learned = max(known, self._learned)

    def follow(self, known: int) -> None:
        """The `known`-th token came: look how the guess was, and where it goes on. Is called before it is learned."""
        if self._goes_on:
            right = bool(self._tokens[self._goes_on] == self._tokens[known - 1])
            self._shares[self._length] += (1 - MEMORY) * (right - self._shares[self._length])
        self._goes_on, self._known = _NOWHERE, known
        for length, places in self._places.items():
            if (place := places.get(self._tokens[known - length : known].tobytes())) is not None:
                self._goes_on, self._length = place, length
                return

    def guesses(self, count: int) -> NDArray[np.int32]:
        """[count] the tokens that are guessed to come next; what is repeated right behind itself goes round."""
        return np.resize(self._tokens[self._goes_on : min(self._known, self._goes_on + count)], count)
