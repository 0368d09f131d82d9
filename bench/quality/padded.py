"""Widens a dense `llama` model with zeros until K-quants fit it; it computes exactly what it computed before.

K-quants want rows of a multiple of 256 values; SmolLM2-135M has 576, for which quantisers take other types instead. So:

- every row along the width gets zeros up to the next multiple, and every matrix that writes the width zero rows;
- RMSNorm then divides the same sum of squares by more values: its weights are multiplied by sqrt(D / wider D) and its
  epsilon by D / wider D, which is the same function;
- whole groups of heads of zeros are added, until `attn_output` has such rows as well; they write nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from numoe.model.architectures.reading import model_spec
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.model_file import GgufFile, open_gguf
from numoe.model.gguf.tensors import TensorInfo, TensorType, row_bytes
from numoe.model.gguf.values import Value
from numoe.model.gguf.write import NewTensor, import_gguf, write_gguf

UNIT = 256  # values of a K-quant's block


@dataclass(frozen=True, slots=True)
class Padding:
    """The widened sizes of a model."""

    width: int
    kv_heads: int
    query_heads: int

    @classmethod
    def of(cls, spec: ModelSpec) -> Padding:
        """The smallest sizes that K-quants fit."""
        group = spec.query_heads // spec.kv_heads
        kv_heads = spec.kv_heads
        while kv_heads * group * spec.head_size % UNIT:
            kv_heads += 1
        return cls(-(-spec.width // UNIT) * UNIT, kv_heads, kv_heads * group)


def dequantised(tensor: TensorInfo) -> NDArray[np.float32]:
    """The values of one tensor of a file, in its shape."""
    data = np.fromfile(tensor.path, np.uint8, tensor.bytes, offset=tensor.offset)
    stored = data.reshape(-1, row_bytes(tensor.type, tensor.shape[-1]))
    values: NDArray[np.float32] = import_gguf().quants.dequantize(stored, tensor.type)
    return values.astype(np.float32).reshape(tensor.shape)


def write_padded(source: Path, path: Path) -> None:
    """Write the widened model with F32 weights."""
    file = open_gguf(source)
    spec = model_spec(file)
    padding = Padding.of(spec)
    tensors = [_padded(tensor, spec, padding) for tensor in file.tensors.values()]
    write_gguf(path, "llama", _metadata(file, spec, padding), tensors)


def _metadata(file: GgufFile, spec: ModelSpec, padding: Padding) -> dict[str, Value]:
    kept = {key: value for key, value in file.metadata.items() if key.startswith(("tokenizer.", "llama."))}
    return {
        "general.type": "model",
        "general.name": f"{spec.name}, padded to a width of {padding.width}",
        "general.quantization_version": 2,
        **kept,
        "llama.embedding_length": padding.width,
        "llama.attention.head_count": padding.query_heads,
        "llama.attention.head_count_kv": padding.kv_heads,
        "llama.attention.key_length": spec.head_size,
        "llama.attention.value_length": spec.head_size,
        "llama.attention.layer_norm_rms_epsilon": spec.rms_epsilon * spec.width / padding.width,
    }


def _padded(tensor: TensorInfo, spec: ModelSpec, padding: Padding) -> NewTensor:
    role = tensor.name.removesuffix(".weight").rpartition(".")[2]
    width, queries, keys = padding.width, padding.query_heads * spec.head_size, padding.kv_heads * spec.head_size
    rows = {"attn_q": queries, "attn_k": keys, "attn_v": keys, "attn_output": width, "ffn_down": width}
    columns = {"attn_output": queries, "ffn_down": spec.expert_width}
    shape = (width,) if role.endswith("_norm") else (rows.get(role, tensor.shape[0]), columns.get(role, width))

    def pieces() -> list[NDArray[np.float32]]:
        values = dequantised(tensor)
        if role.endswith("_norm"):
            values = (values * np.sqrt(spec.width / width)).astype(np.float32)
        return [np.pad(values, [(0, new - old) for new, old in zip(shape, values.shape, strict=True)])]

    return NewTensor(tensor.name, TensorType.F32, shape, pieces)
