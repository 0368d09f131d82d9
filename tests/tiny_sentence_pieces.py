"""A small but real SentencePiece vocabulary for the GGUF files that tests write, made like Llama's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gguf import GGUFWriter, TokenType

# Each is built from two that stand elsewhere in the list; the order is the score, as in vocabularies that were trained.
# fmt: off
WORDS = (
    "▁t", "he", "in", "▁a", "er", "▁the", "▁h", "el", "lo", "▁hel", "▁hello", "on", "▁w", "or", "ld", "▁world", "▁wor",
    "</", "s>", "[I", "12", "ST", "ab", "▁b", "日本",
)
LETTERS = tuple("▁etaoinshrdluwbcTIHS.,</>[]012é日本")
# fmt: on
TIED = ("bc", "cd", "aa", "aaa")  # one score for all: of these the leftmost comes first
BLANKS = ("▁▁", "▁▁▁▁", "▁▁▁")  # and one for these, as in Llama's vocabulary
UNK, BOS, EOS = CONTROL = ("<unk>", "<s>", "</s>")
USER_DEFINED = ("<think>", "</think>")
SMALLEST = len(CONTROL) + 256 + len(TIED) + len(WORDS) + len(BLANKS) + len(LETTERS) + len(USER_DEFINED)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True, slots=True)
class ScoredVocabulary:
    tokens: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[TokenType, ...]


def tiny_sentence_pieces(size: int = SMALLEST) -> ScoredVocabulary:
    """Return <unk>, <s>, </s>, 256 bytes, words, letters, user-defined tokens, and unused ones up to `size`."""
    if size < SMALLEST:
        raise ValueError(f"the tiny SentencePiece vocabulary has {SMALLEST} tokens at least, not {size}")
    unused = [f"[PAD{index}]" for index in range(SMALLEST, size)]
    entries: list[tuple[str, float, TokenType]] = [
        (UNK, 0.0, TokenType.UNKNOWN),
        *((text, 0.0, TokenType.CONTROL) for text in (BOS, EOS)),
        *((f"<0x{byte:02X}>", 0.0, TokenType.BYTE) for byte in range(256)),
        *((text, -1.0, TokenType.NORMAL) for text in TIED),
        *((text, -2.0 - index, TokenType.NORMAL) for index, text in enumerate(WORDS)),
        *((text, -1e9, TokenType.NORMAL) for text in BLANKS),
        *((text, -100.0 - index, TokenType.NORMAL) for index, text in enumerate(LETTERS)),
        *((text, -1000.0, TokenType.USER_DEFINED) for text in USER_DEFINED),
        *((text, -10000.0, TokenType.UNUSED) for text in unused),
    ]
    tokens, scores, types = zip(*entries, strict=True)
    return ScoredVocabulary(tokens, scores, types)


def ids_of(tokens: Sequence[str]) -> list[int]:
    return list(map(tiny_sentence_pieces().tokens.index, tokens))


def write_sentence_pieces(writer: GGUFWriter, size: int) -> None:
    """Add the tokenizer's keys as the converter of Mixtral does."""
    vocabulary = tiny_sentence_pieces(size)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    writer.add_bos_token_id(vocabulary.tokens.index(BOS))
    writer.add_eos_token_id(vocabulary.tokens.index(EOS))
    writer.add_unk_token_id(vocabulary.tokens.index(UNK))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
