"""What a request adds to the logits of tokens: what its client asked for, what may not be drawn, what would repeat."""

from __future__ import annotations

import math
from sys import maxsize

import numpy as np
from numpy.typing import NDArray

from numoe.coordinator.requests.repeats import Repeats
from numoe.coordinator.requests.request import GenerationRequest
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.messages import Biases

MOST_FORBIDDEN = 256  # tokens, of end tokens and stop tokens; models have fewer than ten of the first


class TokenBiases:
    """The biases of one request's draws, of which there are two kinds: before its `min_tokens`-th token, and after."""

    __slots__ = ("_early", "_late", "_min_tokens", "_repeats")

    def __init__(self, request: GenerationRequest, tokenizer: Tokenizer) -> None:
        end_ids = tokenizer.end_ids
        self._min_tokens = request.min_tokens
        self._repeats = Repeats(request.dry, tokenizer) if request.dry and request.dry.multiplier else None
        never = end_ids if request.ignore_eos else frozenset()
        self._late = _biases(request.logit_bias, never)
        self._early = self._late
        if request.min_tokens > 1:
            self._early = _biases(request.logit_bias, never | request.stop_token_ids | end_ids)

    def at(self, drawn: int, tokens: NDArray[np.int32]) -> Biases:
        """Those of the token that follows `tokens`, of which so many are drawn."""
        biases = self._early if drawn + 1 < self._min_tokens else self._late
        if self._repeats is None:
            return biases
        repeated, penalties = self._repeats.penalties(tokens)
        values = np.concatenate([biases.values, -penalties])
        return Biases(np.concatenate([biases.tokens, repeated]), values, len(repeated))

    def alike(self, drawn: int) -> int:
        """How many tokens, from the next one on, have the same biases, of which so many are drawn."""
        if self._repeats is not None:
            return 1
        left = self._min_tokens - 1 - drawn
        return left if left > 0 else maxsize


def _biases(client: tuple[tuple[int, float], ...], forbidden: frozenset[int]) -> Biases:
    biases = dict(client) | dict.fromkeys(sorted(forbidden)[:MOST_FORBIDDEN], -math.inf)
    return Biases(np.array(list(biases), np.int32), np.array(list(biases.values()), np.float32))
