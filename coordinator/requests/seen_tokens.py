"""The distinct tokens of a request, counted: what penalties need."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class SeenTokens:
    """The distinct tokens of a prompt and its answer, with how often each was drawn: what penalties need."""

    __slots__ = ("_counts", "_distinct", "_index_of", "_tokens")

    def __init__(self, prompt: tuple[int, ...], budget: int) -> None:
        self._index_of = {token_id: index for index, token_id in enumerate(dict.fromkeys(prompt))}
        self._distinct = len(self._index_of)
        self._tokens = np.zeros(self._distinct + budget, np.int32)
        self._tokens[: self._distinct] = list(self._index_of)
        self._counts = np.zeros(self._distinct + budget, np.int32)

    def add(self, token_id: int) -> None:
        index = self._index_of.setdefault(token_id, self._distinct)
        if index == self._distinct:
            self._tokens[index] = token_id
            self._distinct += 1
        self._counts[index] += 1

    def arrays(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Ids and counts, [n] each; views that hold until the next `add`."""
        return self._tokens[: self._distinct], self._counts[: self._distinct]
