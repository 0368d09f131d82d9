"""The metadata of a small tokenizer, as a GGUF file holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.tiny_sentence_pieces import BOS, EOS, tiny_sentence_pieces
from tests.tiny_vocabulary import CONTROL, IM_END, byte_spellings, tiny_vocabulary


def tiny_metadata(pre: str = "qwen2", **changes: Any) -> dict[str, Any]:
    """A vocabulary of common English; `changes` name keys without their prefix."""
    vocabulary = tiny_vocabulary(400)
    keys = {
        "model": "gpt2",
        "pre": pre,
        "tokens": list(vocabulary.tokens),
        "token_type": [int(token_type) for token_type in vocabulary.types],
        "merges": list(vocabulary.merges),
        "eos_token_id": vocabulary.tokens.index(IM_END),
        "add_bos_token": False,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in (keys | changes).items() if value is not None}


def scored_metadata(**changes: Any) -> dict[str, Any]:
    """A vocabulary of SentencePiece; `changes` name keys without their prefix."""
    vocabulary = tiny_sentence_pieces()
    keys: dict[str, Any] = {
        "model": "llama",
        "pre": "default",
        "tokens": list(vocabulary.tokens),
        "scores": list(vocabulary.scores),
        "token_type": [int(token_type) for token_type in vocabulary.types],
        "bos_token_id": vocabulary.tokens.index(BOS),
        "eos_token_id": vocabulary.tokens.index(EOS),
    }
    return {f"tokenizer.ggml.{name}": value for name, value in (keys | changes).items() if value is not None}


def mistyped_metadata(token_type: int | None) -> dict[str, Any]:
    """The same with all control tokens of another type; None: with no types at all."""
    vocabulary = tiny_vocabulary(400)
    types = [
        token_type if token in CONTROL else int(kind)
        for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
    ]
    return tiny_metadata(token_type=None if token_type is None else types)


def added_metadata(texts: Sequence[str], token_type: int = 1, **changes: Any) -> dict[str, Any]:
    """A vocabulary of the 256 single bytes, and of these texts after them."""
    tokens, types = [*byte_spellings().values(), *texts], [1] * 256 + [token_type] * len(texts)
    keys: dict[str, Any] = {"tokens": tokens, "token_type": types, "merges": [], "eos_token_id": None}
    return tiny_metadata(**(keys | changes))
