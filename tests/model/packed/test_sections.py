"""Sections of a packed folder leave no byte out, and are cut where plans cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorType
from numoe.model.made_up.synthetic import write_synthetic_model
from numoe.model.made_up.synthetic_shape import PRESETS
from numoe.model.packed.sections import SLICE_BYTES, file_bytes, sections_of
from numoe.model.planning.plan import BLOCK_ROWS, PANEL_ROWS, split_evenly
from tests.tiny_model import TinyShape, shape_of_type, write_tiny_model
from tests.worker.running.shard_process import read_spec

SHAPES = {
    "qwen3moe": TinyShape(),
    "dense and tied": TinyShape("llama", experts=1, active_experts=1, tied=True),
    "k-quants": shape_of_type(TensorType.Q4_K, types=(("ffn_down_exps", TensorType.Q6_K),)),
}


@pytest.fixture(scope="module", params=SHAPES)
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_model(path, SHAPES[request.param])
    return read_spec(path)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """The sizes of Qwen3-30B-A3B."""
    path = tmp_path_factory.mktemp("real") / "header.gguf"
    write_synthetic_model(path, PRESETS["qwen3-30b-a3b"], 0, header_only=True)
    return read_spec(path)


def test_every_byte_of_every_file_is_of_one_slice_with_a_hash_of_its_own(spec: ModelSpec) -> None:
    ends: dict[str, int] = {}
    hashes = 0
    for section in sections_of(spec):
        assert section.offset == ends.get(section.file, 0)
        assert section.first_hash == hashes
        covered = sum(min(section.slice, section.strides - slice_ * section.slice) for slice_ in range(section.slices))
        assert covered == section.strides
        assert section.bytes == section.experts * covered * section.stride
        ends[section.file] = section.offset + section.bytes
        hashes += section.hashes
    assert ends == file_bytes(sections_of(spec))


def test_every_tensor_of_the_model_is_in_a_section(spec: ModelSpec) -> None:
    held = [section.key for section in sections_of(spec)]
    assert len(set(held)) == len(held)
    names = {name for names, _ in held for name in names}
    expected = {spec.output.name, spec.output_norm.name, spec.token_embedding.name}
    for tensors in spec.layer_tensors:
        vectors = (tensors.attn_norm, tensors.ffn_norm, tensors.attn_q_norm, tensors.attn_k_norm)
        expected |= {tensor.name for tensor in (*tensors.matrices, *vectors) if tensor is not None}
    assert names == expected
    rows = ((spec.token_embedding.name,), False)
    assert rows in held  # beside its panels, where it is the output as well


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_even_plans_of_a_real_model_cut_no_expert_within_a_slice(real: ModelSpec, workers: int) -> None:
    sizes = {"gate": (real.expert_width, BLOCK_ROWS), "down": (real.width, PANEL_ROWS)}
    for layer, tensors in enumerate(real.layer_tensors[:2]):
        for field, (rows, unit) in sizes.items():
            name = getattr(tensors, field).name
            [section] = [one for one in sections_of(real) if name in one.key[0]]
            assert section.file == f"layer-{layer:03}.panels"
            assert section.slice * section.stride <= SLICE_BYTES
            for part in split_evenly(rows, unit, workers):
                assert part.start // PANEL_ROWS % section.slice == 0


def test_hashes_of_a_real_model_are_a_small_part_of_it(real: ModelSpec) -> None:
    sections = sections_of(real)
    assert 32 * sum(section.hashes for section in sections) < 1e-3 * sum(section.bytes for section in sections)


def test_the_paths_of_files_are_of_no_interest(spec: ModelSpec, tmp_path: Path) -> None:
    assert {Path(section.file).name for section in sections_of(spec)} == set(file_bytes(sections_of(spec)))
