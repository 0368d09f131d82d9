"""Tokens that end or begin a turn are control tokens, whatever type the file gives them."""

from __future__ import annotations

import pytest

from numoe.model.text.tokenizer import Tokenizer
from numoe.model.text.vocabulary import read_vocabulary
from numoe.protos.errors import ModelFileError
from tests.model.text.chat_templates import started
from tests.model.text.tiny_metadata import added_metadata, mistyped_metadata, tiny_metadata
from tests.tiny_vocabulary import CONTROL, IM_END, IM_START, byte_spellings, tiny_vocabulary

TOKENS = tiny_vocabulary(400).tokens
NORMAL, UNKNOWN, CONTROL_TYPE, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
HELD = [TOKENS.index(text) for text in CONTROL]


@pytest.mark.parametrize("token_type", [NORMAL, UNKNOWN, USER_DEFINED, UNUSED, None])
def test_a_mistyped_file_gives_the_tokenizer_of_a_well_typed_one(token_type: int | None) -> None:
    text = f"{IM_START}user\nHello{IM_END}"
    right = Tokenizer.from_metadata(tiny_metadata())
    found = Tokenizer(read_vocabulary(mistyped_metadata(token_type), text))
    for special in (True, False):
        assert found.encode(text, special=special) == right.encode(text, special=special)
    assert not set(HELD) & set(found.encode(text, special=False))
    assert found.end_ids == right.end_ids
    assert [found.token_bytes(token) for token in HELD] == [b"", b"", b""]


def test_what_was_taken_as_control_is_told_and_nothing_is_of_a_sound_file() -> None:
    assert read_vocabulary(tiny_metadata()).mistyped == ()
    assert set(read_vocabulary(mistyped_metadata(NORMAL)).mistyped) == set(CONTROL)


@pytest.mark.parametrize("text", ["</s>", "<end_of_turn>", "<|eot_id|>", "[EOS]", "<｜end▁of▁sentence｜>"])  # noqa: RUF001
@pytest.mark.parametrize("token_type", [NORMAL, CONTROL_TYPE, USER_DEFINED])
def test_known_ends_are_control_tokens_that_end_an_answer(text: str, token_type: int) -> None:
    tokenizer = Tokenizer.from_metadata(added_metadata([text], token_type))
    assert tokenizer.end_ids == {256}
    assert tokenizer.encode(text) == [256]
    assert 256 not in tokenizer.encode(text, special=False)
    assert tokenizer.token_bytes(256) == b""


@pytest.mark.parametrize("key", ["bos", "eos", "eot", "eom"])
def test_what_an_id_names_is_a_control_token(key: str) -> None:
    tokenizer = Tokenizer.from_metadata(added_metadata(["STOP"], USER_DEFINED, **{f"{key}_token_id": 256}))
    assert 256 not in tokenizer.encode("STOP", special=False)
    assert tokenizer.encode("STOP") == [256]


def test_no_pretokenizer_and_no_merge_leads_plain_text_to_a_control_token() -> None:
    for pre, merges in (("llama-bpe", []), ("qwen2", ["S T"])):
        tokens = [*byte_spellings().values(), "ST"]
        metadata = tiny_metadata(
            pre, tokens=tokens, token_type=[NORMAL] * 256 + [CONTROL_TYPE], merges=merges, eos_token_id=256
        )
        assert Tokenizer.from_metadata(metadata).encode("ST", special=False) == [
            tokens.index("S"),
            tokens.index("T"),
        ]


def test_a_single_byte_stays_text_since_there_is_no_other_way_to_write_it() -> None:
    tokenizer = Tokenizer.from_metadata(tiny_metadata(eos_token_id=65))
    assert tokenizer.encode("a" + TOKENS[65], special=False)[1:] == [65]
    assert tokenizer.token_bytes(65) == TOKENS[65].encode()
    assert 65 in tokenizer.end_ids


def test_words_that_merges_make_are_text_though_they_look_like_ends() -> None:
    """A vocabulary trained on web pages may hold the tag </s> as a word."""
    tokens = [*byte_spellings().values(), "</", "</s", "</s>"]
    metadata = tiny_metadata(tokens=tokens, token_type=None, merges=["< /", "</ s", "</s >"], eos_token_id=None)
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.end_ids == frozenset()
    assert tokenizer.token_bytes(258) == b"</s>"


@pytest.mark.parametrize("token_type", [NORMAL, USER_DEFINED, UNUSED])
def test_what_the_template_writes_around_a_greeting_is_control_but_thoughts_are_shown(token_type: int) -> None:
    metadata = added_metadata(["<turn>", "</turn>", "<think>", "</think>", "<other>"], token_type)
    vocabulary = read_vocabulary(metadata, "<turn>user: Hello</turn><turn>assistant: <think></think>")
    assert vocabulary.mistyped == ("<turn>", "</turn>")
    tokenizer = Tokenizer(vocabulary)
    assert tokenizer.encode("</turn><turn>") == [257, 256]
    assert not {256, 257} & set(tokenizer.encode("</turn><turn>", special=False))
    for text in ("<think>", "<other>"):
        assert tokenizer.encode(text) == Tokenizer.from_metadata(metadata).encode(text)


def test_a_template_that_takes_no_answers_still_tells_what_it_writes() -> None:
    source = "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('no') }}{% endif %}<turn>{% endfor %}"
    with started(source) as template:
        assert template.written == "<turn>"


@pytest.mark.parametrize("token_type", [CONTROL_TYPE, USER_DEFINED])
@pytest.mark.parametrize(("count", "size"), [(1 << 15, 8), (8, 1 << 16)])
def test_special_tokens_beyond_all_vocabularies_are_refused(token_type: int, count: int, size: int) -> None:
    """Each stands in automata that every text is looked up in: 100,000 of 100 bytes took 29 s and 1 GB."""
    metadata = added_metadata([f"{n:0{size}}" for n in range(count)], token_type)
    with pytest.raises(ModelFileError, match=r"special tokens.*at most") as refusal:
        read_vocabulary(metadata)
    assert refusal.value.reason == "special-tokens"
