"""Random models of any small shape, written as GGUF files, with the float32 values that the files hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, RopeScalingType, quants
from numpy.typing import NDArray

from numoe.model.architectures.spec import LayerTensors, ModelSpec, Rope
from numoe.model.gguf.tensors import BLOCKS, TensorInfo, TensorType
from numoe.model.made_up.random_blocks import BlockPools
from tests.tiny_sentence_pieces import write_sentence_pieces
from tests.tiny_vocabulary import write_vocabulary

Weights = dict[str, NDArray[np.float32]]  # by GGUF tensor name
Stored = dict[str, tuple[GGMLQuantizationType, NDArray[Any]]]

WRITTEN_BY_GGUF = frozenset(
    TensorType[name] for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4")
)
POOL_BLOCKS = 4099  # a prime, and more than any matrix of these models has


@dataclass(frozen=True, slots=True)
class TinyShape:
    """What to write. Norms and the router are always F32, as in real files."""

    architecture: Literal["qwen3moe", "llama"] = "qwen3moe"
    layers: int = 2
    width: int = 64
    query_heads: int = 8
    kv_heads: int = 4
    head_size: int = 32
    experts: int = 8  # 1: a dense feed-forward (llama only)
    active_experts: int = 2
    expert_width: int = 96
    vocabulary: int = 331  # no multiple of 16: the last panel is short
    tokenizer: Literal["gpt2", "llama"] = "gpt2"
    context_length: int = 512
    rms_epsilon: float = 1e-6
    rope_base: float = 1e6
    scaling: Literal["none", "linear", "yarn"] = "none"
    factor: float = 1.0
    original_context: int = 0
    tied: bool = False
    type: TensorType = TensorType.F32
    types: tuple[tuple[str, TensorType], ...] = ()  # (role, type), e.g. ("ffn_down_exps", TensorType.Q8_0)
    name: str = ""  # "": "tiny" and the architecture

    @property
    def dense(self) -> bool:
        return self.experts == 1


def shape_of_type(type_: TensorType, **fields: Any) -> TinyShape:
    """A shape of one type, whose rows are whole blocks of it."""
    if BLOCKS[type_][0] > 32:
        fields |= {"width": 256, "expert_width": 256, "query_heads": 8, "kv_heads": 4, "head_size": 32}
    return TinyShape(type=type_, **fields)


def tensor_shapes(shape: TinyShape) -> dict[str, tuple[int, ...]]:
    """Return the GGUF names and shapes, outermost first, in the order in which converters write them."""
    width, ff, experts = shape.width, shape.expert_width, () if shape.dense else (shape.experts,)
    suffix = "" if shape.dense else "_exps"
    query_rows, kv_rows = shape.query_heads * shape.head_size, shape.kv_heads * shape.head_size
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (width,),
        "attn_q": (query_rows, width),
        "attn_k": (kv_rows, width),
        "attn_v": (kv_rows, width),
        "attn_output": (width, query_rows),
        "ffn_norm": (width,),
        f"ffn_gate{suffix}": (*experts, ff, width),
        f"ffn_up{suffix}": (*experts, ff, width),
        f"ffn_down{suffix}": (*experts, width, ff),
    }
    if shape.architecture == "qwen3moe":
        layer |= {"attn_q_norm": (shape.head_size,), "attn_k_norm": (shape.head_size,)}
    if not shape.dense:
        layer["ffn_gate_inp"] = (shape.experts, width)
    model: dict[str, tuple[int, ...]] = {"token_embd.weight": (shape.vocabulary, width), "output_norm.weight": (width,)}
    if not shape.tied:
        model["output.weight"] = (shape.vocabulary, width)
    return model | {f"blk.{i}.{role}.weight": size for i in range(shape.layers) for role, size in layer.items()}


def role_of(name: str) -> str:
    """Return the tensor's role: `attn_q` of `blk.3.attn_q.weight`, `output` of `output.weight`."""
    return name.removesuffix(".weight").rsplit(".", 1)[-1]


def tensor_type(shape: TinyShape, name: str) -> TensorType:
    role = role_of(name)
    if role.endswith("_norm") or role == "ffn_gate_inp":
        return TensorType.F32
    return dict(shape.types).get(role, shape.type)


def random_values(name: str, size: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float32]:
    """Draw values that keep every activation near 1, route with wide gaps and give logits a spread of about 3."""
    role = role_of(name)
    values = random.standard_normal(size, dtype=np.float32)
    if role.endswith("_norm"):
        return np.float32(1) + np.float32(0.1) * values
    return values * np.float32(spread_of(role, size))


def spread_of(role: str, size: tuple[int, ...]) -> float:
    """The standard deviation of a matrix's values."""
    # A router's spread of 4 leaves most gaps between the last chosen expert and the next far above rounding.
    gain = {"token_embd": 0.4 * size[-1] ** 0.5, "ffn_gate_inp": 4.0, "output": 3.0}.get(role, 1.0)
    return float(gain / size[-1] ** 0.5)


def random_blocks(name: str, type_: TensorType, size: tuple[int, ...], seed: int) -> NDArray[np.uint8]:
    """Draw the stored bits of types that gguf reads but does not write."""
    pool = BlockPools(seed, POOL_BLOCKS)
    pieces = pool.pieces(type_, size, spread_of(role_of(name), size))
    return np.concatenate([piece.reshape(-1) for piece in pieces]).reshape(*size[:-1], -1)


def stored_weights(shape: TinyShape, seed: int = 0) -> Stored:
    """Draw the model and round it to the types that the file is to hold."""
    random, stored = np.random.default_rng(seed), Stored()
    for name, size in tensor_shapes(shape).items():
        type_ = tensor_type(shape, name)
        kind = GGMLQuantizationType(type_)
        values = random_values(name, size, random)
        if type_ in WRITTEN_BY_GGUF:
            stored[name] = kind, quants.quantize(values, kind)
        else:
            stored[name] = kind, random_blocks(name, type_, size, int(random.integers(2**32)))
    return stored


def dequantised(stored: Stored) -> Weights:
    return {name: quants.dequantize(data, kind).astype(np.float32) for name, (kind, data) in stored.items()}


def tiny_weights(shape: TinyShape, seed: int = 0) -> Weights:
    """Return what `write_tiny_model` would return, without a file."""
    return dequantised(stored_weights(shape, seed))


def write_tiny_model(path: Path, shape: TinyShape, seed: int = 0, parts: int = 1) -> Weights:
    """Write the model to `path` and return what it holds, dequantised.

    With `parts` > 1 the files are `split_paths(path, parts)`; metadata is in the first only, as llama-gguf-split does.
    """
    writer = GGUFWriter(path, shape.architecture, split_max_tensors=tensors_per_part(shape, parts))
    write_hyperparameters(writer, shape)
    (write_vocabulary if shape.tokenizer == "gpt2" else write_sentence_pieces)(writer, shape.vocabulary)
    stored = stored_weights(shape, seed)
    for name, (kind, data) in stored.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if not all(part.exists() for part in split_paths(path, parts)):
        raise ValueError(f"{len(stored)} tensors cannot be written in {parts} equal parts")
    return dequantised(stored)


def tensors_per_part(shape: TinyShape, parts: int) -> int:
    """Return the writer's limit; 0 is none."""
    return -(-len(tensor_shapes(shape)) // parts) if parts > 1 else 0


def split_paths(path: Path, parts: int) -> tuple[Path, ...]:
    """Return the files that hold the model; the first is the one to open."""
    if parts == 1:
        return (path,)
    return tuple(path.with_name(f"{path.stem}-{part:05d}-of-{parts:05d}.gguf") for part in range(1, parts + 1))


def write_hyperparameters(writer: GGUFWriter, shape: TinyShape) -> None:
    writer.add_name(shape.name or f"tiny {shape.architecture}")
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.width)
    writer.add_head_count(shape.query_heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.rms_epsilon)
    # Qwen3-MoE files give the width of a dense layer that no layer uses; Mixtral's give the experts' own width.
    writer.add_feed_forward_length(shape.expert_width * (3 if shape.architecture == "qwen3moe" else 1))
    if not shape.dense:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.active_experts)
    if shape.architecture == "qwen3moe":
        writer.add_expert_feed_forward_length(shape.expert_width)
    else:
        writer.add_rope_dimension_count(shape.head_size)
        writer.add_vocab_size(shape.vocabulary)
    if shape.scaling != "none":
        writer.add_rope_scaling_type(RopeScalingType(shape.scaling))
        writer.add_rope_scaling_factor(shape.factor)
    if shape.scaling == "yarn":
        writer.add_rope_scaling_orig_ctx_len(shape.original_context)


def tiny_spec(shape: TinyShape) -> ModelSpec:
    """Return the description that reading the file must give, but for `path`, `offset` and `bytes` of the tensors."""
    sizes = tensor_shapes(shape)
    tensors = {name: TensorInfo(name, tensor_type(shape, name), size, Path(), 0, 0) for name, size in sizes.items()}
    return ModelSpec(
        architecture=shape.architecture,
        name=shape.name or f"tiny {shape.architecture}",
        layers=shape.layers,
        width=shape.width,
        query_heads=shape.query_heads,
        kv_heads=shape.kv_heads,
        head_size=shape.head_size,
        context_length=shape.context_length,
        vocabulary=shape.vocabulary,
        rms_epsilon=shape.rms_epsilon,
        rope=Rope(
            style="neox" if shape.architecture == "qwen3moe" else "norm",
            base=shape.rope_base,
            dimensions=shape.head_size,
            scaling=shape.scaling,
            factor=shape.factor,
            original_context=shape.original_context,
        ),
        experts=shape.experts,
        active_experts=shape.active_experts,
        expert_width=shape.expert_width,
        token_embedding=tensors["token_embd.weight"],
        output_norm=tensors["output_norm.weight"],
        output=tensors["token_embd.weight" if shape.tied else "output.weight"],
        layer_tensors=tuple(layer_tensors(tensors, shape, index) for index in range(shape.layers)),
    )


def layer_tensors(tensors: Mapping[str, TensorInfo], shape: TinyShape, index: int) -> LayerTensors:
    def required(role: str) -> TensorInfo:
        return tensors[f"blk.{index}.{role}.weight"]

    def as_experts(role: str) -> TensorInfo:
        info = required(role if shape.dense else f"{role}_exps")
        size = (shape.experts, *info.shape[-2:])
        return TensorInfo(info.name, info.type, size, info.path, info.offset, info.bytes)

    return LayerTensors(
        attn_norm=required("attn_norm"),
        attn_q=required("attn_q"),
        attn_k=required("attn_k"),
        attn_v=required("attn_v"),
        attn_q_bias=None,
        attn_k_bias=None,
        attn_v_bias=None,
        attn_q_norm=tensors.get(f"blk.{index}.attn_q_norm.weight"),
        attn_k_norm=tensors.get(f"blk.{index}.attn_k_norm.weight"),
        attn_output=required("attn_output"),
        ffn_norm=required("ffn_norm"),
        router=tensors.get(f"blk.{index}.ffn_gate_inp.weight"),
        gate=as_experts("ffn_gate"),
        up=as_experts("ffn_up"),
        down=as_experts("ffn_down"),
    )
