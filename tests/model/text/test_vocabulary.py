"""A damaged or hostile vocabulary is refused by name; an unknown kind of tokenizer as well."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numoe.model.text.tokenizer import Tokenizer
from numoe.model.text.vocabulary import RankedPairs, read_vocabulary
from numoe.protos.errors import ModelFileError, UnsupportedModel
from tests.model.text.tiny_metadata import tiny_metadata

TOKENS = tiny_metadata()["tokenizer.ggml.tokens"]


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("tokenizer-key-missing", {"model": None}),
        ("tokenizer-key-missing", {"tokens": None}),
        ("tokenizer-key-missing", {"merges": None}),
        ("tokenizer-value-type", {"model": 7}),
        ("tokenizer-value-type", {"tokens": "abc"}),
        ("tokenizer-value-type", {"tokens": 5}),
        ("tokenizer-value-type", {"tokens": ["a", 3]}),
        ("tokens-empty", {"tokens": []}),
        ("value-not-utf8", {"tokens": [b"a", b"\xff"]}),
        ("token-duplicate", {"tokens": [*TOKENS[:-1], TOKENS[5]]}),
        ("token-types-length", {"token_type": [1] * (len(TOKENS) - 1)}),
        ("token-types-length", {"token_type": [1] * (len(TOKENS) + 1)}),
        ("token-type-unknown", {"token_type": [7] * len(TOKENS)}),
        ("token-type-unknown", {"token_type": [-1] * len(TOKENS)}),
        ("token-type-unknown", {"token_type": [1.0] * len(TOKENS)}),
        ("token-type-unknown", {"token_type": np.full(len(TOKENS), np.nan)}),
        ("token-type-unknown", {"token_type": [[1]] * len(TOKENS)}),
        ("token-id-range", {"eos_token_id": len(TOKENS)}),
        ("token-id-range", {"eot_token_id": -2}),
        ("token-id-range", {"bos_token_id": 2**32 - 2}),
        ("token-id-range", {"eos_token_id": [2, len(TOKENS)]}),
        ("tokenizer-value-type", {"bos_token_id": [2, 3]}),
        ("tokenizer-value-type", {"eos_token_id": np.array([0.5])}),
        ("tokenizer-value-type", {"eos_token_id": [[2]]}),
        ("tokenizer-value-type", {"eos_token_id": "2"}),
        ("tokenizer-value-type", {"eos_token_id": True}),
        ("tokenizer-value-type", {"add_bos_token": "yes"}),
        ("tokenizer-value-type", {"add_bos_token": np.array([True, False])}),
        ("token-id-missing", {"add_bos_token": True}),
        ("merge-malformed", {"merges": ["ab"]}),
        ("merge-malformed", {"merges": [" ab"]}),
        ("merge-malformed", {"merges": ["ab "]}),
        ("merge-malformed", {"merges": ["a b c"]}),
        ("merge-malformed", {"merges": [""]}),
        ("merge-unknown-token", {"merges": ["a missing"]}),
        ("merge-unknown-token", {"merges": ["z z"]}),
    ],
)
def test_a_fault_is_refused_by_its_name(reason: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError) as refusal:
        Tokenizer.from_metadata(tiny_metadata(**changes))
    assert refusal.value.reason == reason
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("model", ["bert", "t5", "rwkv", "plamo2", "gemma4", "no_vocab"])
def test_other_tokenizer_models_are_unsupported_by_name(model: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"'{model}'.*gpt2.*llama"):
        Tokenizer.from_metadata(tiny_metadata(model=model))


def test_an_unknown_pretokenizer_is_unsupported_with_the_list_of_known_ones() -> None:
    with pytest.raises(UnsupportedModel, match=r"'tekken'.*llama-bpe.*qwen2.*smollm"):
        Tokenizer.from_metadata(tiny_metadata("tekken"))


def test_bytes_and_texts_give_the_same_vocabulary() -> None:
    as_text = tiny_metadata()
    as_bytes = {
        key: [item.encode() for item in value] if key.endswith(("tokens", "merges")) else value
        for key, value in as_text.items()
    }
    assert read_vocabulary(as_bytes) == read_vocabulary(as_text)


def test_of_two_equal_merges_the_first_counts() -> None:
    merging = read_vocabulary(tiny_metadata(merges=["h e", "r e", "h e"])).merging
    assert isinstance(merging, RankedPairs)
    assert merging.merges == (("h", "e"), ("r", "e"))


def test_empty_tokens_stand_for_nothing() -> None:
    tokenizer = Tokenizer.from_metadata(tiny_metadata(tokens=[*TOKENS[:-2], "", ""]))
    assert tokenizer.vocabulary == len(TOKENS)
    assert tokenizer.token_bytes(len(TOKENS) - 1) == b""


@pytest.mark.parametrize(
    ("pre", "stated", "bos_id", "expected"),
    [
        ("qwen2", None, 3, False),
        ("llama-bpe", None, 3, True),
        ("llama-bpe", None, None, False),
        ("llama-bpe", False, 3, False),
        ("qwen2", True, 3, True),
        ("qwen2", np.bool_(True), np.uint32(3), True),
    ],
)
def test_whether_a_bos_token_leads_is_stated_or_follows_from_the_pretokenizer(
    pre: str, stated: bool | None, bos_id: int | None, expected: bool
) -> None:
    tokenizer = Tokenizer.from_metadata(tiny_metadata(pre, add_bos_token=stated, bos_token_id=bos_id))
    assert tokenizer.add_bos is expected
    assert tokenizer.bos_id == bos_id


@pytest.mark.parametrize("none", [-1, 2**32 - 1, np.uint32(2**32 - 1), [], [-1], np.array([-1, 2**32 - 1])])
@pytest.mark.parametrize("name", ["bos", "eos", "eot", "eom"])
def test_an_id_that_says_none_names_no_token(name: str, none: object) -> None:
    key, metadata = f"tokenizer.ggml.{name}_token_id", tiny_metadata()
    without = {other: value for other, value in metadata.items() if other != key}
    assert read_vocabulary(metadata | {key: none}) == read_vocabulary(without)


@pytest.mark.parametrize("several", [[7, 5, -1], (7, 5), np.array([7, 5], np.uint32), np.array([7, 5], np.int32)])
def test_an_answer_ends_with_each_of_several_ids_and_the_first_is_the_templates(several: object) -> None:
    vocabulary = read_vocabulary(tiny_metadata(eos_token_id=several))
    assert vocabulary.end_ids >= {5, 7}
    assert vocabulary.eos_id == 7
    assert read_vocabulary(tiny_metadata(bos_token_id=np.array([7]))).bos_id == 7


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
KEYS = ["model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id", "add_bos_token"]


@settings(derandomize=True, max_examples=200)
@given(changes=st.dictionaries(st.sampled_from(KEYS), VALUES | st.lists(VALUES, max_size=5), max_size=3))
def test_whatever_the_keys_hold_the_answer_is_a_tokenizer_or_a_typed_refusal(changes: dict[str, Any]) -> None:
    with suppress(ModelFileError, UnsupportedModel):
        assert Tokenizer.from_metadata(tiny_metadata(**{"pre": "qwen2"} | changes)).vocabulary
