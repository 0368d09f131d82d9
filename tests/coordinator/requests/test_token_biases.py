"""What a client asks for is added, and what may not be drawn yet, or at all, is impossible."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numoe.coordinator.requests.repeats import Dry
from numoe.coordinator.requests.request import GenerationRequest
from numoe.coordinator.requests.token_biases import MOST_FORBIDDEN, TokenBiases
from numoe.protos.messages import BIAS_ROOM
from tests.coordinator.tiny_tokenizer import LETTERS, TOKENIZER

IMPOSSIBLE = dict.fromkeys(TOKENIZER.end_ids, -math.inf)
NOTHING = np.zeros(1, np.int32)


def biases_at(drawn: int, **changes: Any) -> dict[int, float]:
    biases = TokenBiases(GenerationRequest("r", (1,), **changes), TOKENIZER).at(drawn, NOTHING)
    assert (biases.tokens.dtype.name, biases.values.dtype.name, biases.repeats) == ("int32", "float32", 0)
    return dict(zip(biases.tokens.tolist(), biases.values.tolist(), strict=True))


def test_without_a_wish_nothing_is_changed() -> None:
    assert biases_at(0) == biases_at(5) == {}


def test_end_tokens_and_stop_tokens_are_impossible_before_the_least_number_of_tokens() -> None:
    wish: dict[str, Any] = {"min_tokens": 3, "stop_token_ids": frozenset({4}), "logit_bias": ((4, 2.0), (5, 1.0))}
    assert biases_at(0, **wish) == biases_at(1, **wish) == {4: -math.inf, 5: 1.0, **IMPOSSIBLE}
    assert biases_at(2, **wish) == {4: 2.0, 5: 1.0}  # the third may be the last


def test_end_tokens_that_are_to_be_ignored_are_always_impossible() -> None:
    assert biases_at(0, ignore_eos=True) == biases_at(90, ignore_eos=True) == IMPOSSIBLE


def test_very_many_tokens_that_may_not_be_drawn_leave_room_for_all_else() -> None:
    found = biases_at(0, min_tokens=9, stop_token_ids=frozenset(range(300)), logit_bias=((315, 1.0),))
    assert len(found) == MOST_FORBIDDEN + 1
    assert found[315] == 1.0
    assert 1024 + MOST_FORBIDDEN + 512 <= BIAS_ROOM


def test_what_would_repeat_comes_behind_the_biases() -> None:
    a, b, c, *_ = LETTERS
    request = GenerationRequest("r", (1,), logit_bias=((7, 2.0),), dry=Dry(1.0, 2.0, 2))
    biases = TokenBiases(request, TOKENIZER).at(0, np.array([a, b, c, a, b], np.int32))
    assert (biases.tokens.tolist(), biases.values.tolist(), biases.repeats) == ([7, c], [2.0, -1.0], 1)
    none = TokenBiases(request, TOKENIZER).at(0, np.array([a], np.int32))
    assert (none.tokens.tolist(), none.repeats) == ([7], 0)
