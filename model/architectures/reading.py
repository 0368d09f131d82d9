"""Reads what model a GGUF file holds, by the description of its architecture.

*Guarantees*: a ModelSpec holds only tensors that exist, of the shapes that the keys state and of types that this
version runs, and every tensor of the file is in it: a tensor that nothing here computes with (an output bias, a shared
expert, Llama 3.1's frequency factors) would change the answers, so it is refused by name; so is a key of the
architecture that nothing here knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from numoe.model.architectures.checked_tensors import CheckedTensors
from numoe.model.architectures.description import F32_ONLY, Architecture, Tensor
from numoe.model.architectures.hyperparameters import ModelSizes, read_rope, read_sizes
from numoe.model.architectures.keys import Keys
from numoe.model.architectures.registry import ARCHITECTURES
from numoe.model.architectures.spec import LayerTensors, ModelSpec
from numoe.model.gguf.model_file import GgufFile
from numoe.model.gguf.tensors import RUNNABLE_TYPES, TensorInfo
from numoe.model.gguf.values import Strings, describe_value
from numoe.protos.errors import ModelFileError, UnsupportedModel
from numoe.protos.foreign_text import one_line


def model_spec(file: GgufFile) -> ModelSpec:
    """Describe the model in `file`. Raises ModelFileError and UnsupportedModel."""
    architecture = _architecture(file)
    keys = Keys(file.path, file.metadata, architecture.name)
    for key, allowed in architecture.fixed.items():
        keys.expect(key, allowed)
    keys.refuse_unknown(architecture.keys | architecture.fixed.keys())
    tensors = _layer_description(architecture, keys)
    routed = tensors is architecture.routed
    sizes = read_sizes(keys, routed, architecture.own_expert_width)
    rope = read_rope(keys, architecture.rope_style, sizes.head_size, sizes.context_length)
    checked = CheckedTensors(file)
    checked.require(_required_names(tensors, sizes.layers))
    vocabulary = _vocabulary(file, keys)
    token_embedding = checked.take("token_embd.weight", (vocabulary, sizes.width), RUNNABLE_TYPES)
    output_norm = checked.take("output_norm.weight", (sizes.width,), F32_ONLY)
    output = checked.take_if_present("output.weight", (vocabulary, sizes.width), RUNNABLE_TYPES)
    layers = tuple(_layer(checked, tensors, sizes, index) for index in range(sizes.layers))
    checked.refuse_unexpected()
    return ModelSpec(
        architecture=architecture.name,
        name=_name(file),
        layers=sizes.layers,
        width=sizes.width,
        query_heads=sizes.query_heads,
        kv_heads=sizes.kv_heads,
        head_size=sizes.head_size,
        context_length=sizes.context_length,
        vocabulary=vocabulary,
        rms_epsilon=keys.number("attention.layer_norm_rms_epsilon", 1e-12, 1.0),
        rope=rope,
        experts=sizes.experts,
        active_experts=sizes.active_experts,
        expert_width=sizes.expert_width,
        token_embedding=token_embedding,
        output_norm=output_norm,
        output=output or token_embedding,
        layer_tensors=layers,
        files=file.identities,
    )


def _architecture(file: GgufFile) -> Architecture:
    name = file.metadata.get("general.architecture")
    if not isinstance(name, str):
        raise ModelFileError("architecture-missing", f"{file.path}: general.architecture is missing or no string")
    if name not in ARCHITECTURES:
        runs = ", ".join(ARCHITECTURES)
        raise UnsupportedModel(f"{file.path}: the architecture is {one_line(name, 60)!r}, this version runs {runs}")
    kind = file.metadata.get("general.type", "model")
    if not isinstance(kind, str) or kind != "model":
        raise UnsupportedModel(f"{file.path}: this is of type {describe_value(kind)}, this version runs models")
    return ARCHITECTURES[name]


def _layer_description(architecture: Architecture, keys: Keys) -> tuple[Tensor, ...]:
    has_experts = architecture.dense is None or keys.integer("expert_count", 1 << 32, default=0, low=0) > 0
    tensors = architecture.routed if has_experts else architecture.dense
    if tensors is None:
        keys.refuse(f"the model has experts, this version runs {architecture.name} without")
    return tensors


def _required_names(tensors: tuple[Tensor, ...], layers: int) -> Iterator[str]:
    yield from ("token_embd.weight", "output_norm.weight")
    yield from (f"blk.{layer}.{t.name}" for layer in range(layers) for t in tensors if not t.optional)


def _layer(checked: CheckedTensors, tensors: tuple[Tensor, ...], sizes: ModelSizes, layer: int) -> LayerTensors:
    letters = {
        "D": sizes.width,
        "HK": sizes.query_heads * sizes.head_size,
        "GK": sizes.kv_heads * sizes.head_size,
        "K": sizes.head_size,
        "E": sizes.experts,
        "F": sizes.expert_width,
    }
    found: dict[str, TensorInfo | None] = {}
    for tensor in tensors:
        name, shape = f"blk.{layer}.{tensor.name}", tuple(letters[letter] for letter in tensor.shape)
        take = checked.take_if_present if tensor.optional else checked.take
        found[tensor.field] = take(name, shape, tensor.types)
    missing = {field.name: None for field in fields(LayerTensors) if field.name not in found}
    return LayerTensors(**missing, **found)  # type: ignore[arg-type]  # a test holds the descriptions to the fields


def _vocabulary(file: GgufFile, keys: Keys) -> int:
    vocabulary = file.tensors["token_embd.weight"].shape[0]
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    stated = len(tokens) if isinstance(tokens, Strings) else vocabulary
    if stated != vocabulary:
        keys.contradiction(f"the vocabulary has {stated} tokens, but token_embd.weight has {vocabulary} rows")
    stated = keys.integer("vocab_size", 1 << 32, default=vocabulary)
    if stated != vocabulary:
        keys.contradiction(f"vocab_size is {stated}, but token_embd.weight has {vocabulary} rows")
    return vocabulary


def _name(file: GgufFile) -> str:
    name = file.metadata.get("general.name")
    return one_line(name, 200) if isinstance(name, str) and name else file.path.stem
