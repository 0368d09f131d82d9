"""The metadata of a small tokenizer, as a GGUF file holds them."""

from __future__ import annotations

from typing import Any

from tests.tiny_vocabulary import IM_END, tiny_vocabulary


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
