"""Special tokens are found as a look for each of them in turn finds them, the longest first."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numoe.model.text.special_texts import SpecialTexts

MARKERS = ["<s>", "</s>", "<unk>", "[INST]", "[/INST]", *(f"[c{n}]" for n in range(12)), "<", "[c"]  # cannot overlap
OVERLAPPING = ["  ", "   ", "ab", "bcd", "bc", "aa", "a", "a<s>b", "<s>"]


def naive(text: str, tokens: list[tuple[str, int]]) -> list[str | int]:
    """Cuts at the leftmost of the longest tokens that stand in the text, then does the same on both sides."""
    for token, token_id in sorted(tokens, key=lambda token: -len(token[0])):
        before, found, after = text.partition(token)
        if found:
            return [*naive(before, tokens), token_id, *naive(after, tokens)]
    return [text] if text else []


@pytest.mark.parametrize("texts", [MARKERS, OVERLAPPING], ids=["markers", "overlapping"])
@settings(derandomize=True, max_examples=300)
@given(data=st.data())
def test_tokens_are_found_as_a_look_for_each_in_turn_finds_them(texts: list[str], data: st.DataObject) -> None:
    tokens = [(text, n) for n, text in enumerate(data.draw(st.lists(st.sampled_from(texts), unique=True)))]
    pieces = st.sampled_from([*texts, "x", "[", "c", ">", " "]) | st.text("[]<>/cs1a ", max_size=3)
    text = "".join(data.draw(st.lists(pieces, max_size=12)))
    assert SpecialTexts(tokens).split(text) == naive(text, tokens)


def test_a_text_full_of_different_tokens_is_looked_through_once() -> None:
    """It takes 0.2 s of processor time; looking for each in turn took more than 30."""
    tokens = [(f"[control_{n}]", n) for n in range(8000)]
    text = "".join(text for text, _ in tokens) * 8
    started = time.thread_time()
    assert SpecialTexts(tokens).split(text) == list(range(8000)) * 8
    assert time.thread_time() - started < 5
