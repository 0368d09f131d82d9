"""Metadata that an operator sets in place of a file's: llama.cpp's --override-kv KEY=TYPE:VALUE.

Every key that is read may be set, and no other: one that nothing reads would seem to have an effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from numoe.model.architectures.description import ROPE, SIZES, Architecture
from numoe.model.architectures.registry import ARCHITECTURES
from numoe.model.gguf.model_file import GgufFile
from numoe.model.gguf.values import Value
from numoe.protos.errors import SetupError

FLAGS = {"true": True, "false": False}
READ: Mapping[str, Callable[[str], Value]] = {"int": int, "float": float, "bool": FLAGS.__getitem__, "str": str}
# The type of each key that is read; sizes are whole numbers and those of RoPE real ones, but for these.
OTHER_TYPES = {
    "attention.layer_norm_rms_epsilon": "float",
    "rope.dimension_count": "int",
    "rope.scaling.original_context_length": "int",
    "rope.scaling.type": "str",
}
TEXT_KEYS = {
    "general.name": "str",
    "tokenizer.chat_template": "str",
    "tokenizer.ggml.pre": "str",
    "tokenizer.ggml.add_bos_token": "bool",
    "tokenizer.ggml.add_space_prefix": "bool",
    "tokenizer.ggml.bos_token_id": "int",
    "tokenizer.ggml.eos_token_id": "int",
    "tokenizer.ggml.eot_token_id": "int",
    "tokenizer.ggml.eom_token_id": "int",
    "tokenizer.ggml.unknown_token_id": "int",
}


def override(file: GgufFile, overrides: Iterable[str]) -> GgufFile:
    """The file with other metadata, each given as KEY=TYPE:VALUE. Raises SetupError."""
    types = _types(file)
    metadata = dict(file.metadata)
    for one in overrides:
        key, value = _read(one, types)
        if key.endswith(".expert_used_count"):
            _keep_expert_width(metadata, key.removesuffix(".expert_used_count"))
        metadata[key] = value
    return replace(file, metadata=MappingProxyType(metadata))


def _types(file: GgufFile) -> dict[str, str]:
    """[key] the type of every key that is read of this file."""
    name = file.metadata.get("general.architecture")
    architecture = ARCHITECTURES.get(name) if isinstance(name, str) else None
    own = {} if architecture is None else _own_types(architecture)
    return {**{f"{name}.{key}": type_ for key, type_ in own.items()}, **TEXT_KEYS}


def _own_types(architecture: Architecture) -> dict[str, str]:
    sizes = dict.fromkeys(SIZES & architecture.keys, "int")
    rope = dict.fromkeys(ROPE & architecture.keys, "float")
    fixed = {key: type(allowed[0]).__name__ for key, allowed in architecture.fixed.items()}
    return sizes | rope | {key: type_ for key, type_ in OTHER_TYPES.items() if key in architecture.keys} | fixed


def _read(one: str, types: Mapping[str, str]) -> tuple[str, Value]:
    key, equals, typed = one.partition("=")
    type_, colon, text = typed.partition(":")
    if not (key and equals and colon):
        raise SetupError(f"--override-kv is {one!r}, expected KEY=TYPE:VALUE, as in qwen3moe.expert_used_count=int:6")
    if key not in types:
        known = ", ".join(sorted(types))
        raise SetupError(f"--override-kv names {key!r}, which is not read of this file; what is read are {known}")
    if type_ != types[key]:
        raise SetupError(f"--override-kv gives {key} the type {type_!r}, expected {types[key]}")
    try:
        return key, READ[type_](text)
    except (ValueError, KeyError) as error:
        expected = {"int": "a whole number", "float": "a number", "bool": "true or false"}[type_]
        raise SetupError(f"--override-kv gives {key} the value {text!r}, expected {expected}") from error


def _keep_expert_width(metadata: dict[str, Value], prefix: str) -> None:
    """State the width of experts where the file leaves it to be the dense one's over the experts used."""
    used, dense = (metadata.get(f"{prefix}.{key}") for key in ("expert_used_count", "feed_forward_length"))
    if isinstance(used, int) and isinstance(dense, int) and ARCHITECTURES[prefix].own_expert_width:
        metadata[f"{prefix}.expert_feed_forward_length"] = metadata.get(
            f"{prefix}.expert_feed_forward_length"
        ) or dense // max(used, 1)
