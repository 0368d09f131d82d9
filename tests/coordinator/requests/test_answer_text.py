"""Stop strings: found wherever tokens cut them, never shown in part, independent of the cuts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numoe.coordinator.requests.answer_text import AnswerText, StopMatcher
from numoe.model.text.tokenizer import Tokenizer
from tests.coordinator.tiny_tokenizer import TOKENIZER, text_of
from tests.model.text.tiny_metadata import scored_metadata

TEXTS = st.text("ab", max_size=40)
STOPS = st.lists(st.text("ab", min_size=1, max_size=6), max_size=4).map(tuple)


def _naive(text: str, stops: tuple[str, ...], include: bool) -> tuple[str, str | None]:
    """Looks for a stop string at the end of every prefix, shortest prefix first."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end if include else end - len(longest)], longest
    return text, None


@given(st.lists(TEXTS, max_size=8), STOPS, st.booleans())
@settings(derandomize=True, max_examples=500)
def test_the_text_and_the_match_are_those_of_a_search_over_the_whole_text(
    pieces: list[str], stops: tuple[str, ...], include: bool
) -> None:
    matcher = StopMatcher(stops, include)
    shown = ""
    whole, match = _naive("".join(pieces), stops, include)
    for index, piece in enumerate(pieces):
        shown += matcher.push(piece)
        assert whole.startswith(shown)
        so_far = "".join(pieces[: index + 1])
        if matcher.match is None:  # held back is no more than what may still become a stop string
            held = so_far[len(shown) :]
            assert not held or any(stop.startswith(held) for stop in stops)
    assert (shown + matcher.finish(), matcher.match) == (whole, match)


def test_a_partial_stop_string_is_held_back_and_given_out_when_it_breaks_off() -> None:
    matcher = StopMatcher(("</end>",), include=False)
    assert [matcher.push(piece) for piece in ("one <", "/en", "t>", " two </", "end> three")] == [
        "one ", "", "</ent>", " two ", "",
    ]  # fmt: skip
    assert matcher.match == "</end>"
    assert (matcher.push("four"), matcher.finish()) == ("", "")


def test_the_stop_string_is_shown_when_it_is_asked_for() -> None:
    matcher = StopMatcher(("end",), include=True)
    assert matcher.push("the e") + matcher.push("nd of it") == "the end"


def test_text_before_stop_strings_count_is_passed_on_at_once() -> None:
    a, b, end = (TOKENIZER.encode(letter)[0] for letter in "abe")
    text = AnswerText(TOKENIZER, ("ab",), include_stop=False)
    assert [text.push(a, may_stop=False), text.push(b, may_stop=False), text.push(a, may_stop=True)] == ["a", "b", ""]
    assert text.push(end, may_stop=True) == "ae"
    assert text.stop_match is None


@given(st.lists(st.integers(0, TOKENIZER.vocabulary - 1), max_size=30))
@settings(derandomize=True, max_examples=200)
def test_pieces_of_text_add_up_to_the_text_decoded_at_once(token_ids: list[int]) -> None:
    text = AnswerText(TOKENIZER, (), include_stop=False)
    pieces = [text.push(token_id, may_stop=True) for token_id in token_ids]
    assert "".join(pieces) + text.finish() == text_of(token_ids)


@pytest.mark.parametrize("character", ["é", "€", "😀"])
def test_a_stop_string_of_several_bytes_is_found_though_tokens_cut_it(character: str) -> None:
    text = AnswerText(TOKENIZER, (character,), include_stop=False)
    pieces = [text.push(token_id, may_stop=True) for token_id in TOKENIZER.encode(f"a{character}b")]
    assert "".join(pieces) == "a"
    assert text.stop_match == character


@pytest.mark.parametrize(
    ("stop", "shown"), [("lo w", " hel"), ("é", " hello world "), (" hello", ""), ("ld ", " hello wor")]
)
def test_stop_strings_are_found_across_tokens_that_write_blanks_and_bytes_otherwise(stop: str, shown: str) -> None:
    """The first token of an answer keeps its blank, which parts the answer from the prompt."""
    scored = Tokenizer.from_metadata(scored_metadata())
    text = AnswerText(scored, (stop,), include_stop=False)
    assert "".join(text.push(token_id, may_stop=True) for token_id in scored.encode("hello world é")) == shown
    assert text.stop_match == stop


def test_control_tokens_are_shown_where_that_is_asked_for() -> None:
    call, end = TOKENIZER.encode("<|im_start|>"), TOKENIZER.encode("<|im_end|>")
    text = AnswerText(TOKENIZER, (), include_stop=False, shown=frozenset(call))
    assert [text.push(token_id, may_stop=True) for token_id in (*call, *end)] == ["<|im_start|>", ""]
