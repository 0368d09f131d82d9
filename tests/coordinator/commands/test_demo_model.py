"""Models with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from numoe.coordinator.machine.model_file import read_spec
from numoe.model.gguf.tensors import TensorType
from tests.coordinator.commands.numoe_process import numoe


def test_demo_model_writes_a_model_of_any_shape(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "m.gguf"
    experts = ("--experts", "4", "--active-experts", "2", "--expert-width", "32")
    sizes = ("--layers", "1", "--width", "64", "--vocabulary", "600", "--type", "bf16")
    done = numoe("demo-model", str(path), "--shape", "qwen3-30b-a3b", *experts, *sizes)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{path}\n"
    spec = read_spec(path)
    assert (spec.layers, spec.width, spec.experts, spec.query_heads) == (1, 64, 4, 32)
    assert spec.output.type is TensorType.BF16


@pytest.mark.parametrize(("pure", "down"), [([], TensorType.Q3_K), (["--pure"], TensorType.Q2_K)])
def test_demo_model_writes_the_mix_of_types_that_real_files_have(
    pure: list[str], down: TensorType, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    done = numoe("demo-model", str(path), "--shape", "qwen3moe", "--layers", "1", "--type", "q2_k", *pure)
    assert done.returncode == 0, done.stderr
    layer = read_spec(path).layer_tensors[0]
    assert (layer.gate.type, layer.down.type) == (TensorType.Q2_K, down)
