"""Reads what a model file's metadata say: sizes, tokenizer and chat template. No weight is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from numoe.coordinator.settings import DEFAULT_CONTEXT_TOKENS, ServeSettings
from numoe.model.architectures.overrides import override
from numoe.model.architectures.reading import model_spec
from numoe.model.architectures.rope_choice import RopeChoice, choose_rope
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.model_file import GgufFile, open_gguf
from numoe.model.packed.folder import check_origin, check_sections, open_packed
from numoe.model.text.chat_template import ChatTemplate
from numoe.model.text.spelling import token_bytes
from numoe.model.text.tokenizer import Tokenizer
from numoe.model.text.vocabulary import Vocabulary, read_vocabulary
from numoe.protos.errors import ModelFileError, SetupError, UnsupportedModel
from numoe.protos.foreign_text import one_line

_log = structlog.get_logger()

AS_IN_THE_FILE = ServeSettings()
TEMPLATE_KEY = "tokenizer.chat_template"


def read_spec(path: Path | None, settings: ServeSettings = AS_IN_THE_FILE) -> ModelSpec:
    """The model's sizes. Raises SetupError."""
    return _read(path, settings)[1]


def read_metadata(path: Path | None, settings: ServeSettings) -> Mapping[str, Any]:
    """What stands in the head of the file, or of the packed folder, by key, whatever the operator says instead."""
    if settings.model.packed is not None:
        return open_packed(settings.model.packed)[0].metadata
    assert path is not None
    return open_gguf(path).metadata


def _read(path: Path | None, settings: ServeSettings) -> tuple[GgufFile, ModelSpec]:
    """The file, or the packed folder, with what the operator says instead of some of its metadata."""
    if settings.model.packed is not None:
        return _read_packed(settings.model.packed, path, settings)
    assert path is not None
    return _described(open_gguf(path), settings)


def _read_packed(folder: Path, path: Path | None, settings: ServeSettings) -> tuple[GgufFile, ModelSpec]:
    opened, manifest = open_packed(folder)
    if path is not None:
        check_origin(folder, manifest, path)
    file, spec = _described(opened, settings)
    spec = check_sections(folder, manifest, spec)
    origins = ", ".join(origin.name for origin in manifest.packed_from)
    _log.info("packed_model", folder=str(folder), packed_from=one_line(origins), weights=manifest.weights)
    return file, spec


def _described(opened: GgufFile, settings: ServeSettings) -> tuple[GgufFile, ModelSpec]:
    chosen, served = settings.model, settings.engine.context_tokens or DEFAULT_CONTEXT_TOKENS
    file = override(opened, chosen.override_kv)
    rope = RopeChoice(chosen.yarn, chosen.rope_scaling, chosen.rope_scale, chosen.yarn_orig_ctx, chosen.rope_freq_base)
    file, remark = choose_rope(file, rope, served)
    if remark:
        _log.warning("rope_scaling", reason=remark)
    try:
        return file, model_spec(file)
    except (ModelFileError, UnsupportedModel) as error:
        if chosen.override_kv:
            raise SetupError(f"with --override-kv {' '.join(chosen.override_kv)}: {error}") from error
        raise


def read_model(
    path: Path | None, settings: ServeSettings = AS_IN_THE_FILE
) -> tuple[ModelSpec, Tokenizer, ChatTemplate | None]:
    """The model's sizes, tokenizer and template (None: the file has none that works). Raises SetupError.

    Without a path, the settings name a packed folder.
    """
    file, spec = _read(path, settings)
    try:
        vocabulary = read_vocabulary(file.metadata)
        template = _template(file.metadata, vocabulary)
        if template is not None:  # what it writes tells more of the control tokens
            vocabulary = read_vocabulary(file.metadata, template.written)
        tokenizer = Tokenizer(vocabulary)
    except ModelFileError as error:
        raise ModelFileError(error.reason, f"{file.path}: {error}") from error
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{file.path}: {error}") from error
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
