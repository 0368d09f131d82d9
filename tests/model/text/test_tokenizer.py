"""Texts become the token ids that the definition gives, and come back whole."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from numoe.model.gguf.model_file import open_gguf
from numoe.model.made_up.alphabet_vocabulary import vocabulary_metadata
from numoe.model.made_up.demo import find_source
from numoe.model.text.part import UNCUT_CHARACTERS, Uncuttable
from numoe.model.text.pretokenizers import PRETOKENIZERS
from numoe.model.text.spelling import BYTE_SPELLINGS
from numoe.model.text.tokenizer import Detokenizer, Tokenizer
from tests.model.text import naive_bpe
from tests.model.text.tiny_metadata import tiny_metadata
from tests.tiny_vocabulary import IM_END, byte_spellings, tiny_vocabulary

# Characters that every Unicode table in use knows: newer ones differ between libraries, not between tokenizers.
KNOWN = st.characters(exclude_categories=["Cs", "Cn"]).filter(lambda c: unicodedata.ucd_3_2_0.category(c) != "Cn")
BLANKS = [" ", "  ", "\n", "\r\n", "\t", "\u00a0"]
PIECES = [
    *BLANKS,
    "'s",
    "'LL",
    "don't",
    "123",
    "x2",
    "...",
    "été",
    "e\u0301",
    "日本",
    "😀",
    "👩\u200d👧",
    "the",
    IM_END,
]
seeded = settings(derandomize=True, max_examples=60)
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(KNOWN, max_size=6), max_size=12).map("".join)


@cache
def tiny(pre: str = "qwen2") -> Tokenizer:
    return Tokenizer.from_metadata(tiny_metadata(pre))


@cache
def smollm_metadata() -> dict[str, Any]:
    return dict(open_gguf(find_source()).metadata)


@cache
def smollm() -> Tokenizer:
    return Tokenizer.from_metadata(smollm_metadata())


def decode(tokenizer: Tokenizer, token_ids: list[int]) -> str:
    detokenizer = Detokenizer(tokenizer)
    return "".join([*map(detokenizer.push, token_ids), detokenizer.finish()])


@pytest.mark.parametrize("pre", ["default", "gpt-2", "smollm", "qwen2", "qwen35", "dbrx"])
@seeded
@given(text=TEXTS)
def test_texts_are_encoded_as_the_definition_says(pre: str, text: str) -> None:
    vocabulary = tiny_vocabulary(400)
    expected = naive_bpe.encode(text, PRETOKENIZERS[pre].patterns, vocabulary.tokens, vocabulary.merges)
    assert tiny(pre).encode(text, special=False) == expected


# What may stand on either side of a cut, what looks like it, and what patterns treat in ways of their own.
EDGES = (
    *("a", "Z", "é", "ß", "я", "Ω", "日", "本", "ひ", "カ", "한", "\u0627", "अ", "क्ष", "ไ", "e\u0301", "\u017f", "ª"),
    *("0", "7", "12345", "٣", "½", "Ⅷ", "²"),
    *(" ", "  ", "\n", "\r\n", "\n\n", "\t", "\u00a0", "\u3000", "\u2028", "\x0b", "\x85"),
    *("'", "'s", "'LL", ".", ",", "...", "-", "_", "/", "$", "+", "<", "|", "。", "\uff0c", "」", "\u0301"),
    *("😀", "👩\u200d👧", IM_END, "<think>", "the", "Hello"),
)
CUTTABLE = st.lists(st.sampled_from(EDGES) | st.text(KNOWN, max_size=2), max_size=30).map("".join)


@pytest.mark.parametrize("pre", ["default", "gpt-2", "smollm", "qwen2", "qwen35", "dbrx", "llama-bpe", "real"])
@settings(derandomize=True, max_examples=300)
@given(text=CUTTABLE, special=st.booleans())
def test_pieces_give_the_tokens_of_the_whole(pre: str, text: str, special: bool) -> None:
    tokenizer = smollm() if pre == "real" else tiny(pre)
    pieces = list(tokenizer.pieces(text, 1))
    assert "".join(pieces) == text
    assert [i for piece in pieces for i in tokenizer.encode(piece, special=special)] == tokenizer.encode(
        text, special=special
    )


SENTENCES = (
    "Hello you. ",
    "x=1;",
    "3.14 2.71\n",
    "1,2,3\n",
    "你好\uff0c世界。",
    "こんにちは。\n",
    "word\n",
    "Привет, мир! ",
)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_every_usual_text_has_places_to_cut_it(sentence: str) -> None:
    """Of at most the longest sentence more than asked for."""
    for tokenizer in (tiny("qwen2"), tiny("llama-bpe"), smollm()):
        assert max(map(len, tokenizer.pieces(sentence * 100, 50))) <= 50 + len(sentence)


def test_no_piece_ends_inside_a_token_that_is_found_in_text() -> None:
    """Which is then no place to cut at all: a dot after a letter, here."""
    keys: dict[str, Any] = {"tokens": [*byte_spellings().values(), "x.y"], "token_type": [1] * 256 + [4]}
    tokenizer = Tokenizer.from_metadata(tiny_metadata(**keys, merges=[], eos_token_id=None))
    assert list(tokenizer.pieces("x.y a.b,c", 1)) == ["x.y", " a.b", ",c"]


def test_a_text_without_such_a_place_is_refused_without_a_search_to_its_end() -> None:
    text = "a" * (UNCUT_CHARACTERS + 100) + " b c"
    pieces = tiny("qwen2").pieces("b c" + text, 1)
    assert next(pieces) == "b"
    with pytest.raises(Uncuttable):
        next(pieces)
    assert list(tiny("qwen2").pieces(text[101:])) == [text[101:-4], " b c"]


@cache
def smollm_by_hugging_face() -> tokenizers.Tokenizer:
    metadata = smollm_metadata()
    vocabulary = {token: token_id for token_id, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return tokenizer


@seeded
@given(text=TEXTS)
def test_smollm_texts_are_encoded_as_by_the_models_own_tokenizer(text: str) -> None:
    assert smollm().encode(text, special=False) == smollm_by_hugging_face().encode(text).ids


def test_a_conversation_of_smollm_has_the_known_ids() -> None:
    text = "<|im_start|>user\nHi there, it's 2024! 😀<|im_end|>\n"
    known = [1, 4093, 198, 26843, 665, 28, 357, 506, 216, 34, 32, 34, 36, 17, 40303, 218, 2, 198]
    assert smollm().encode(text) == known
    assert decode(smollm(), known) == "user\nHi there, it's 2024! 😀\n"


@pytest.mark.parametrize(
    ("pre", "digits"),
    [("qwen2", [["1"], ["2"], ["3"], ["4"]]), ("llama-bpe", [["123"], ["4"]]), ("gpt-2", [["12", "34"]])],
)
def test_numbers_are_cut_as_the_pretokenizer_says(pre: str, digits: list[list[str]]) -> None:
    tokens = [*byte_spellings().values(), "12", "34", "123"]
    metadata = tiny_metadata(pre, tokens=tokens, token_type=None, merges=["1 2", "3 4", "12 3"], eos_token_id=None)
    expected = [tokens.index(token) for word in digits for token in word]
    assert Tokenizer.from_metadata(metadata).encode("1234") == expected


def test_the_long_s_makes_no_contraction_and_nothing_is_normalised() -> None:
    tokenizer = tiny("qwen2")
    assert decode(tokenizer, tokenizer.encode("e\u0301 \u212b it'\u017f")) == "e\u0301 \u212b it'\u017f"
    assert naive_bpe.cut("it'\u017f", PRETOKENIZERS["qwen2"].patterns) == ["it", "'\u017f"]
    assert tokenizer.encode("e\u0301") != tokenizer.encode("\u00e9")


def test_a_whole_word_is_taken_as_it_stands_where_the_pretokenizer_says_so() -> None:
    tokens = [*byte_spellings().values(), "ab", "abc"]  # no merge leads to abc
    keys: dict[str, Any] = {"tokens": tokens, "token_type": None, "merges": ["a b"], "eos_token_id": None}
    built_up = Tokenizer.from_metadata(tiny_metadata("qwen2", **keys)).encode("abc")
    assert built_up == [tokens.index("ab"), tokens.index("c")]
    assert Tokenizer.from_metadata(tiny_metadata("llama-bpe", **keys)).encode("abc") == [tokens.index("abc")]


def test_control_tokens_are_found_only_where_allowed_and_never_shown() -> None:
    tokenizer, tokens = tiny(), tiny_vocabulary(400).tokens
    end = tokens.index(IM_END)
    assert tokenizer.encode(f"a{IM_END}") == [tokens.index("a"), end]
    assert end not in tokenizer.encode(f"a{IM_END}", special=False)
    assert decode(tokenizer, tokenizer.encode(f"a{IM_END}", special=False)) == f"a{IM_END}"
    assert tokenizer.token_bytes(end) == b""
    assert tokenizer.token_bytes(end, control=True) == IM_END.encode()


@pytest.mark.parametrize("special", [True, False])
def test_user_defined_tokens_are_always_found_and_shown(special: bool) -> None:
    tokenizer, tokens = tiny(), tiny_vocabulary(400).tokens
    encoded = tokenizer.encode("a<think>b", special=special)
    assert encoded == [tokens.index("a"), tokens.index("<think>"), tokens.index("b")]
    assert decode(tokenizer, encoded) == "a<think>b"


def test_the_longest_of_several_special_tokens_is_found() -> None:
    tokens = [*byte_spellings().values(), "<a>", "<a><b>"]
    types = [1] * 256 + [3, 4]
    tokenizer = Tokenizer.from_metadata(tiny_metadata(tokens=tokens, token_type=types, merges=[], eos_token_id=None))
    assert tokenizer.encode("<a><b><a>") == [257, 256]


def test_an_answer_ends_with_the_tokens_named_and_with_well_known_ones() -> None:
    tokens = [*byte_spellings().values(), "<|im_end|>", "<|endoftext|>", "<stop>", "<mask>"]
    metadata = tiny_metadata(
        tokens=tokens, token_type=[1] * 256 + [3] * 4, merges=[], eos_token_id=258, eot_token_id=65
    )
    assert Tokenizer.from_metadata(metadata).end_ids == {256, 257, 258, 65}


def test_unused_tokens_stand_for_nothing() -> None:
    pad = tiny_vocabulary(400).tokens.index("[PAD399]")
    assert tiny().token_bytes(pad) == b""
    assert pad not in tiny().encode("[PAD399]")


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    assert decode(tiny(), tiny().encode("a\ud83d b \ud83d\ude00")) == "a\ufffd b 😀"


def test_token_ids_outside_the_vocabulary_are_refused() -> None:
    for token_id in (-1, 400):
        with pytest.raises(IndexError, match="outside the vocabulary of 400"):
            tiny().token_bytes(token_id)


def test_every_byte_has_the_spelling_of_gpt_2() -> None:
    assert dict(BYTE_SPELLINGS) == byte_spellings()


@seeded
@given(text=st.text())
def test_any_text_comes_back_whole_and_in_whole_characters(text: str) -> None:
    tokenizer = tiny()
    detokenizer = Detokenizer(tokenizer)
    pushed = [detokenizer.push(token_id) for token_id in tokenizer.encode(text, special=False)]
    assert "".join(pushed) == text
    assert detokenizer.finish() == ""


@seeded
@given(token_ids=st.lists(st.integers(0, 255), max_size=40))
def test_any_bytes_come_out_as_utf8_with_replacements(token_ids: list[int]) -> None:
    """Tokens 0 to 255 are single bytes, so this cuts characters everywhere."""
    raw = b"".join(tiny().token_bytes(token_id) for token_id in token_ids)
    assert decode(tiny(), token_ids) == raw.decode("utf-8", "replace")


def test_a_character_is_given_out_with_its_last_byte() -> None:
    detokenizer = Detokenizer(tiny())
    token_ids = tiny().encode("😀")
    assert [detokenizer.push(token_id) for token_id in token_ids] == ["", "", "", "😀"]
    assert [detokenizer.push(token_id) for token_id in token_ids[:3]] == ["", "", ""]
    assert detokenizer.finish() == "\ufffd"
    assert detokenizer.finish() == ""


@seeded
@given(text=TEXTS)
def test_a_synthetic_vocabulary_encodes_any_text(text: str) -> None:
    tokenizer = synthetic()
    assert decode(tokenizer, tokenizer.encode(text, special=False)) == text


@cache
def synthetic() -> Tokenizer:
    return Tokenizer.from_metadata(vocabulary_metadata(20_000))


def test_a_synthetic_vocabulary_shortens_text() -> None:
    assert synthetic().vocabulary == 20_000
    assert len(synthetic().encode("the weather is nice today")) < 15
