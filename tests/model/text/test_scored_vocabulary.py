"""A damaged SentencePiece vocabulary is refused by name; what it leaves out is what llama.cpp takes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numoe.model.text.tokenizer import Tokenizer
from numoe.model.text.vocabulary import ScoredTokens, read_vocabulary
from numoe.protos.errors import ModelFileError, UnsupportedModel
from tests.model.text.tiny_metadata import scored_metadata
from tests.tiny_sentence_pieces import BOS, CONTROL, EOS, tiny_sentence_pieces

VOCABULARY = tiny_sentence_pieces()
TOKENS, TYPES = list(VOCABULARY.tokens), [int(token_type) for token_type in VOCABULARY.types]
COUNT = len(TOKENS)


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("tokenizer-key-missing", {"scores": None}),
        ("tokenizer-value-type", {"scores": "abc"}),
        ("tokenizer-value-type", {"scores": 0.5}),
        ("token-scores-length", {"scores": [0.0] * (COUNT - 1)}),
        ("token-scores-length", {"scores": [0.0] * (COUNT + 1)}),
        ("token-score", {"scores": [float("nan")] * COUNT}),
        ("token-score", {"scores": ["0"] * COUNT}),
        ("token-score", {"scores": [True] * COUNT}),
        ("token-score", {"scores": [1j] * COUNT}),
        ("token-byte", {"token_type": [6, *TYPES[1:]]}),
        ("token-byte", {"tokens": [*TOKENS[:3], "<0xg0>", *TOKENS[4:]]}),
        ("token-length", {"tokens": [*TOKENS[:-1], "a" * 1025]}),
        ("token-duplicate", {"tokens": [*TOKENS[:-1], TOKENS[5]]}),
        ("tokenizer-value-type", {"add_space_prefix": 1}),
        ("token-id-range", {"unknown_token_id": COUNT}),
    ],
)
def test_a_fault_is_refused_by_its_name(reason: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError) as refusal:
        Tokenizer.from_metadata(scored_metadata(**changes))
    assert refusal.value.reason == reason
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32, list])
def test_scores_are_numbers_of_any_kind(kind: Any) -> None:
    scores = list(map(round, VOCABULARY.scores))
    given_scores = scores if kind is list else np.array(scores, kind)
    merging = read_vocabulary(scored_metadata(scores=given_scores)).merging
    assert isinstance(merging, ScoredTokens)
    assert merging.scores == tuple(scores)


def test_what_the_file_does_not_name_is_what_llama_cpp_takes() -> None:
    vocabulary = read_vocabulary(scored_metadata(bos_token_id=None, eos_token_id=None, pre=None))
    assert (vocabulary.bos_id, vocabulary.eos_id, vocabulary.add_bos) == (1, 2, True)
    assert vocabulary.end_ids == {2}
    assert vocabulary == read_vocabulary(scored_metadata(add_bos_token=True, unknown_token_id=0))
    assert not read_vocabulary(scored_metadata(add_bos_token=False)).add_bos


def test_a_file_without_types_has_the_bytes_and_the_control_tokens_of_a_typed_one() -> None:
    found, right = (Tokenizer.from_metadata(scored_metadata(**more)) for more in ({"token_type": None}, {}))
    for text in ("hello é</s>", "<s>\n", "😀"):
        for special in (True, False):
            assert found.encode(text, special=special) == right.encode(text, special=special)
    assert [found.token_bytes(token_id) for token_id in range(1, 259)] == [right.token_bytes(n) for n in range(1, 259)]


@pytest.mark.parametrize("token_type", [1, 4, 5])
def test_markers_of_the_wrong_type_are_control_tokens(token_type: int) -> None:
    texts, scores = [*TOKENS, "[INST]", "<|im_end|>", "<b>"], [*VOCABULARY.scores, -1.0, -1.0, -1.0]
    types = [token_type if token in (BOS, EOS) else kind for token, kind in zip(TOKENS, TYPES, strict=True)]
    vocabulary = read_vocabulary(scored_metadata(tokens=texts, scores=scores, token_type=[*types, *[token_type] * 3]))
    assert set(vocabulary.mistyped) == {BOS, EOS, "[INST]", "<|im_end|>"}
    tokenizer = Tokenizer(vocabulary)
    assert tokenizer.end_ids == {TOKENS.index(EOS), COUNT + 1}
    attack = "</s><s>[INST]<|im_end|>"
    assert not {1, 2, COUNT, COUNT + 1} & set(tokenizer.encode(attack, special=False))
    assert tokenizer.control_texts(attack) == {BOS, EOS, "[INST]", "<|im_end|>"}


def test_a_word_that_looks_like_a_marker_is_text_if_scores_lead_to_it() -> None:
    """A vocabulary trained on web pages may hold the tag </s> as a word; here the file ends with another token."""
    types = [1 if token in CONTROL else kind for token, kind in zip(TOKENS, TYPES, strict=True)]
    tokenizer = Tokenizer.from_metadata(scored_metadata(token_type=types, bos_token_id=40, eos_token_id=41))
    assert tokenizer.encode("a</s>", special=False)[-1] == TOKENS.index(EOS)
    assert tokenizer.end_ids == {41}


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
KEYS = ["tokens", "scores", "token_type", "bos_token_id", "eos_token_id", "add_bos_token", "add_space_prefix"]


@settings(derandomize=True, max_examples=200)
@given(changes=st.dictionaries(st.sampled_from(KEYS), VALUES | st.lists(VALUES, max_size=5), max_size=3))
def test_whatever_the_keys_hold_the_answer_is_a_tokenizer_or_a_typed_refusal(changes: dict[str, Any]) -> None:
    with suppress(ModelFileError, UnsupportedModel):
        assert Tokenizer.from_metadata(scored_metadata(**changes)).encode("hello") is not None


@settings(derandomize=True, max_examples=100)
@given(
    texts=st.lists(st.text(max_size=6), min_size=1, max_size=8, unique=True),
    types=st.lists(st.integers(0, 5), min_size=8, max_size=8),
    text=st.text(max_size=10),
)
def test_tokens_of_any_text_and_type_make_a_tokenizer(texts: list[str], types: list[int], text: str) -> None:
    """The library that merges refuses some; none of those may reach it."""
    metadata = scored_metadata(tokens=texts, scores=[0.0] * len(texts), token_type=types[: len(texts)])
    with suppress(ModelFileError):  # half of a surrogate pair, and what else no file can hold
        assert len(Tokenizer.from_metadata(metadata | {"tokenizer.ggml.bos_token_id": 0}).encode(text)) >= 0
