"""A thought that takes too long is ended, by the tokens before alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from numoe.coordinator.requests.thought import FollowedThought, ThoughtTokens
from tests.coordinator.tiny_tokenizer import TOKENIZER

(OPEN,), (CLOSE,), (A,), (NEWLINE,) = (TOKENIZER.encode(text) for text in ("<think>", "</think>", "a", "\n"))
ENDING = (NEWLINE, CLOSE, NEWLINE)


def known(drawn: Sequence[int], tokens: int, *, opened: bool) -> list[int]:
    """What becomes of these tokens."""
    thought = FollowedThought(ThoughtTokens(OPEN, CLOSE, opened, tokens, ENDING), TOKENIZER)
    puts = [(token, thought.follow(token)) for token in drawn]
    return [token if put is None else put for token, put in puts]


@pytest.mark.parametrize(
    ("drawn", "tokens", "opened", "expected"),
    [
        ([A, A, A, A, A, A], 2, True, [A, A, *ENDING, A]),
        ([OPEN, A, A, A, A, A, A], 2, False, [OPEN, A, A, *ENDING, A]),
        ([NEWLINE, OPEN, A, A, A, A], 1, False, [NEWLINE, OPEN, A, *ENDING]),
        ([A, OPEN, A, A, A], 1, False, [A, OPEN, A, A, A]),
        ([A, CLOSE, A, A, A], 1, True, [A, CLOSE, A, A, A]),
        ([A, A, CLOSE, OPEN, A, A], 2, True, [A, A, CLOSE, OPEN, A, A]),
        ([A, A, A, A], 0, True, [*ENDING, A]),
        ([CLOSE, A, A], 0, True, [CLOSE, A, A]),
    ],
)
def test_a_thought_has_so_many_tokens_at_most(drawn: list[int], tokens: int, opened: bool, expected: list[int]) -> None:
    assert known(drawn, tokens, opened=opened) == expected
