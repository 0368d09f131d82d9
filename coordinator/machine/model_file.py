"""Reads what a model file's metadata say: sizes, tokenizer and chat template. No weight is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from numoe.model.architectures.reading import model_spec
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.model_file import open_gguf
from numoe.model.text.chat_template import ChatTemplate
from numoe.model.text.spelling import token_bytes
from numoe.model.text.tokenizer import Tokenizer
from numoe.model.text.vocabulary import Vocabulary, read_vocabulary
from numoe.protos.errors import ModelFileError, UnsupportedModel
from numoe.protos.foreign_text import one_line

_log = structlog.get_logger()

TEMPLATE_KEY = "tokenizer.chat_template"


def read_spec(path: Path) -> ModelSpec:
    """The model's sizes. Raises SetupError."""
    return model_spec(open_gguf(path))


def read_model(path: Path) -> tuple[ModelSpec, Tokenizer, ChatTemplate | None]:
    """The model's sizes, tokenizer and template (None: the file has none that works). Raises SetupError."""
    file = open_gguf(path)
    spec = model_spec(file)
    try:
        vocabulary = read_vocabulary(file.metadata)
        template = _template(file.metadata, vocabulary)
        if template is not None:  # what it writes tells more of the control tokens
            vocabulary = read_vocabulary(file.metadata, template.written)
        tokenizer = Tokenizer(vocabulary)
    except ModelFileError as error:
        raise ModelFileError(error.reason, f"{path}: {error}") from error
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{path}: {error}") from error
    if vocabulary.mistyped:
        texts = one_line(", ".join(vocabulary.mistyped), 200)
        _log.warning("tokens_taken_as_control", count=len(vocabulary.mistyped), tokens=texts)
    return spec, tokenizer, template


def _template(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> ChatTemplate | None:
    """The file's template; a broken one only costs the service its Chat."""
    source = metadata.get(TEMPLATE_KEY)
    if source is None:
        return None
    try:
        if not isinstance(source, str):
            kind = "a list" if isinstance(source, Sequence | np.ndarray) else f"a {type(source).__name__}"
            raise UnsupportedModel(f"{TEMPLATE_KEY} is {kind}, expected one text")
        if not source.strip():
            raise UnsupportedModel(f"{TEMPLATE_KEY} is empty")
        bos, eos = (_token_text(vocabulary, token_id) for token_id in (vocabulary.bos_id, vocabulary.eos_id))
        return ChatTemplate(source, bos_token=bos, eos_token=eos)
    except UnsupportedModel as error:
        _log.warning("no_chat", error=str(error))
        return None


def _token_text(vocabulary: Vocabulary, token_id: int | None) -> str:
    return "" if token_id is None else token_bytes(vocabulary, token_id, control=True).decode(errors="replace")
