"""A padded model has rows that K-quants fit, and computes what it computed before."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.quality.padded import dequantised, write_padded
from numoe.model.architectures.reading import model_spec
from numoe.model.gguf.model_file import open_gguf
from numoe.model.gguf.tensors import TensorType
from tests.forward import Forward
from tests.tiny_model import TinyShape, write_tiny_model

# An epsilon that matters, heads and width that do not fit; the file is Q8_0, so that it must be dequantised.
SHAPE = TinyShape(
    "llama", width=96, query_heads=6, kv_heads=2, head_size=32, experts=1, active_experts=1, expert_width=256,
    rms_epsilon=0.1, tied=True, type=TensorType.Q8_0,
)  # fmt: skip


def test_a_padded_model_is_the_same_function(tmp_path: Path) -> None:
    source, path = tmp_path / "source.gguf", tmp_path / "padded.gguf"
    weights = write_tiny_model(source, SHAPE)
    write_padded(source, path)
    file = open_gguf(path)
    wide = {name: dequantised(tensor) for name, tensor in file.tensors.items()}
    tokens = list(range(20))
    expected = Forward(weights, model_spec(open_gguf(source)))(tokens).logits
    found = Forward(wide, model_spec(file))(tokens).logits
    # The norms' weights and the epsilon were rounded to float32 anew.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_all_rows_of_a_padded_model_fit_k_quants(tmp_path: Path) -> None:
    source, path = tmp_path / "source.gguf", tmp_path / "padded.gguf"
    write_tiny_model(source, SHAPE)
    write_padded(source, path)
    assert {tensor.shape[-1] % 256 for tensor in open_gguf(path).tensors.values()} == {0}
