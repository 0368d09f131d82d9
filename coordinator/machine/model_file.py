"""Reads what a model file's metadata say: sizes, tokenizer and chat template. No weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from numoe.model.architectures.reading import model_spec
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.model_file import open_gguf
from numoe.model.text.chat_template import ChatTemplate
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.errors import UnsupportedModel

_log = structlog.get_logger()


def read_spec(path: Path) -> ModelSpec:
    """The model's sizes. Raises SetupError."""
    return model_spec(open_gguf(path))


def read_model(path: Path) -> tuple[ModelSpec, Tokenizer, ChatTemplate | None]:
    """The model's sizes, tokenizer and template (None: the file has none that works). Raises SetupError."""
    file = open_gguf(path)
    spec = model_spec(file)
    tokenizer = Tokenizer.from_metadata(file.metadata)
    return spec, tokenizer, _template(file.metadata, tokenizer)


def _template(metadata: Mapping[str, Any], tokenizer: Tokenizer) -> ChatTemplate | None:
    """The file's template; a broken one only costs the service its Chat."""
    source = metadata.get("tokenizer.chat_template")
    if not isinstance(source, str) or not source:
        return None
    try:
        bos, eos = (_token_text(metadata, tokenizer, name) for name in ("bos", "eos"))
        return ChatTemplate(source, bos_token=bos, eos_token=eos)
    except UnsupportedModel as error:
        _log.warning("no_chat", reason=str(error))
        return None


def _token_text(metadata: Mapping[str, Any], tokenizer: Tokenizer, name: str) -> str:
    token_id = metadata.get(f"tokenizer.ggml.{name}_token_id")
    return "" if token_id is None else tokenizer.token_bytes(int(token_id), control=True).decode(errors="replace")
