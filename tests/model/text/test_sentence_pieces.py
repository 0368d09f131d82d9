"""Texts become the ids that llama.cpp gives them with a SentencePiece vocabulary, and come back whole."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numoe.model.text.part import Part
from numoe.model.text.tokenizer import Detokenizer, Tokenizer
from tests.model.text import naive_scores
from tests.model.text.llama_cpp_ids import PLAIN, SPECIAL
from tests.model.text.tiny_metadata import scored_metadata
from tests.tiny_sentence_pieces import BOS, CONTROL, EOS, UNK, WORDS, ids_of, tiny_sentence_pieces

TOKENS = tiny_sentence_pieces().tokens
CONTROL_IDS = set(ids_of(CONTROL))
BOS_ID, EOS_ID = ids_of([BOS, EOS])
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
NORMAL, CONTROL_TYPE, USER_DEFINED, UNUSED, BYTE = 1, 3, 4, 5, 6
PIECES = [*WORDS, *CONTROL, "<think>", " ", "  ", "     ", "\n", "\u2581", "é", "日", "😀", "aaaa", "abcd", "<0x41>"]
seeded = settings(derandomize=True, max_examples=100)
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=12).map("".join)


@cache
def tiny(**changes: Any) -> Tokenizer:
    return Tokenizer.from_metadata(scored_metadata(**changes))


def decode(tokenizer: Tokenizer, token_ids: list[int]) -> str:
    detokenizer = Detokenizer(tokenizer)
    return "".join([*map(detokenizer.push, token_ids), detokenizer.finish()])


def made_of(texts: list[str], scores: list[float], types: list[int] | None = None, **changes: Any) -> Tokenizer:
    """A tokenizer of an unknown token, the bytes, and these texts from 257 on."""
    return Tokenizer.from_metadata(
        scored_metadata(
            tokens=[UNK, *BYTES, *texts],
            scores=[0.0] * 257 + scores,
            token_type=[2] + [BYTE] * 256 + (types or [NORMAL] * len(texts)),
            **{"bos_token_id": None, "eos_token_id": None} | changes,
        )
    )


@pytest.mark.parametrize(("text", "expected"), PLAIN)
@pytest.mark.parametrize("special", [True, False])
def test_plain_texts_have_the_ids_of_llama_cpp(text: str, special: bool, expected: list[int]) -> None:
    assert tiny().encode(text, special=special) == expected


@pytest.mark.parametrize(("text", "expected"), SPECIAL)
def test_texts_with_control_tokens_have_the_ids_of_llama_cpp(text: str, expected: list[int]) -> None:
    assert tiny().encode(text) == expected


@seeded
@given(
    texts=st.lists(st.text("ab\u2581", min_size=1, max_size=5), min_size=1, max_size=12, unique=True),
    scores=st.lists(st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0, float("-inf")]), min_size=12, max_size=12),
    text=st.text("ab ", max_size=24),
)
def test_any_scores_merge_as_the_definition_says_equal_ones_from_the_left(
    texts: list[str], scores: list[float], text: str
) -> None:
    tokenizer = made_of(texts, scores[: len(texts)], add_space_prefix=False)
    ids = {token: token_id for token_id, token in enumerate([UNK, *BYTES, *texts])}
    expected = naive_scores.encode(text.replace(" ", "\u2581"), ids, dict(zip(texts, scores, strict=False)))
    assert tokenizer.encode(text) == expected
    assert [i for run in tokenizer.encode_parts([Part(text, True)], 1) for i in run] == expected


@seeded
@given(texts=st.lists(TEXTS, max_size=4), characters=st.integers(1, 9), special=st.booleans())
def test_a_text_in_parts_and_pieces_has_the_ids_of_the_whole(texts: list[str], characters: int, special: bool) -> None:
    text = "".join(texts)
    whole = tiny().encode(text, special=special)
    for parts in ([Part(text, special)], [] if special else [Part(piece, False) for piece in texts]):
        ids = [token_id for run in tiny().encode_parts(parts, characters) for token_id in run]
        assert ids == (whole if parts else [])
    assert "".join(tiny().pieces(text, characters)) == text


def test_runs_are_short_where_a_text_can_be_cut() -> None:
    runs = list(tiny().encode_parts([Part("hello world " * 100, True)], 24))
    assert len(runs) > 30
    assert max(map(len, runs)) < 40


def test_text_that_is_not_searched_merges_with_what_stands_around_it() -> None:
    parts = [Part("the ", True), Part("</s>", False), Part("a <think>", True), Part("<s>", False), Part("</s>", True)]
    found = [token_id for run in tiny().encode_parts(parts) for token_id in run]
    before, after = tiny().encode("the </s>a ", special=False), tiny().encode("<s>", special=False)
    assert found == [*before, *ids_of(["<think>"]), *after, EOS_ID]


@seeded
@given(text=TEXTS)
def test_no_plain_text_becomes_a_control_token(text: str) -> None:
    """The vocabulary holds </ and s>, of which llama.cpp makes </s>."""
    assert not CONTROL_IDS & set(tiny().encode(text, special=False))
    assert tiny().control_texts(text) <= {control for control in CONTROL if control in text}


def test_control_texts_are_those_that_encoding_would_find() -> None:
    assert tiny().control_texts("a</s>b<think><s") == {EOS}


def test_of_two_special_tokens_that_overlap_the_longer_is_found_wherever_it_stands() -> None:
    tokenizer = made_of(["ab", "bcd", "a"], [0.0] * 3, [USER_DEFINED, CONTROL_TYPE, NORMAL], add_space_prefix=False)
    assert tokenizer.encode("abcd") == [259, 258]
    assert tokenizer.encode("abcd", special=False)[0] == 257


def test_a_control_token_of_one_character_is_never_text() -> None:
    tokenizer = made_of(["\n", "a"], [0.0] * 2, [CONTROL_TYPE, NORMAL], add_space_prefix=False)
    assert tokenizer.encode("a\n", special=False) == [258, 1 + ord("\n")]
    assert tokenizer.encode("a\n") == [258, 257]


@pytest.mark.parametrize(("prefix", "expected"), [(None, "▁t"), (True, "▁t"), (False, "t")])
def test_a_blank_is_put_before_a_text_unless_the_file_says_otherwise(prefix: bool | None, expected: str) -> None:
    tokenizer = tiny(add_space_prefix=prefix)
    assert [TOKENS[token_id] for token_id in tokenizer.encode("t</s>t")] == [expected, EOS, expected]
    assert tokenizer.leading_blank is (prefix is not False)


def test_unused_tokens_are_merged_as_llama_cpp_does_and_show_nothing() -> None:
    tokenizer = made_of(["a", "b", "ab"], [0.0] * 3, [NORMAL, NORMAL, UNUSED], add_space_prefix=False)
    assert tokenizer.encode("ab") == [259]
    assert tokenizer.token_bytes(259) == b""


@pytest.mark.parametrize(("unknown", "expected"), [(0, [0, 0]), (None, [0, 0]), (1, [1, 1])])
def test_bytes_that_the_vocabulary_lacks_become_its_unknown_token(unknown: int | None, expected: list[int]) -> None:
    metadata = scored_metadata(
        tokens=[UNK, "?", "a", "<0x41>"],
        scores=[0.0] * 4,
        token_type=[2, 1, 1, 6],
        eos_token_id=1,
        bos_token_id=1,
        unknown_token_id=unknown,
        add_space_prefix=False,
    )
    assert Tokenizer.from_metadata(metadata).encode("aéA") == [2, *expected, 3]


def test_a_token_with_a_null_character_is_never_made() -> None:
    tokenizer = made_of(["\0", "a\0", "a"], [0.0] * 3, add_space_prefix=False)
    assert tokenizer.encode("a\0") == [259, 1]
    assert tokenizer.token_bytes(257) == b"\0"


@seeded
@given(text=st.text() | TEXTS)
def test_a_text_that_follows_the_beginning_comes_back_whole(text: str) -> None:
    for user_defined in ("<think>", "</think>"):  # a blank is put behind those, by llama.cpp as well
        text = text.replace(user_defined, "")
    token_ids = tiny().encode(text, special=False)
    expected = text.replace("\u2581", " ").encode("utf-8", "replace").decode()
    assert decode(tiny(), [BOS_ID, *token_ids]) == expected
    assert decode(tiny(), token_ids) == (f" {expected}" if text else "")


def test_only_one_blank_vanishes_and_only_right_after_the_beginning() -> None:
    hello = tiny().encode("hello")
    assert decode(tiny(), [BOS_ID, *tiny().encode("  hello")]) == "  hello"
    assert decode(tiny(), [BOS_ID, EOS_ID, *hello, *hello]) == "hello hello"
    assert decode(tiny(), [EOS_ID, BOS_ID, *hello]) == " hello"
    assert decode(tiny(add_space_prefix=False), [BOS_ID, *hello]) == " hello"


def test_bytes_are_given_out_as_whole_characters() -> None:
    detokenizer = Detokenizer(tiny())
    token_ids = tiny().encode("😀")
    assert [detokenizer.push(token_id) for token_id in token_ids] == [" ", "", "", "", "😀"]
    assert [detokenizer.push(token_id) for token_id in token_ids[1:4]] == ["", "", ""]
    assert detokenizer.finish() == "\ufffd"


def test_tokens_stand_for_their_bytes() -> None:
    assert tiny().token_bytes(3 + 0xE9) == b"\xe9"
    assert tiny().token_bytes(TOKENS.index("▁the")) == b" the"
    assert tiny().token_bytes(EOS_ID) == b""
    assert tiny().token_bytes(EOS_ID, control=True) == b"</s>"
    assert tiny().token_bytes(TOKENS.index("<think>")) == b"<think>"


@seeded
@given(text=TEXTS)
def test_no_token_stands_for_more_of_a_text_than_is_said(text: str) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    assert size <= tiny().longest_token_bytes * len(tiny().encode(text, special=False))
