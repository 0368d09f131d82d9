"""What starting a group of workers does, and does not do."""

from __future__ import annotations

import pytest

from numoe.coordinator.settings import KV_TYPES
from numoe.coordinator.workers.starting import tile_types
from numoe.kernels.cpu.jit import cache_folder
from numoe.model.gguf.tensors import TensorType
from numoe.worker.running.step_records import formats_of
from numoe.worker.running.warm import VALUES
from tests.system.conftest import ModelOf
from tests.system.groups import WorkerProcesses
from tests.tiny_model import TinyShape, shape_of_type, tiny_spec


def kept() -> dict[str, int]:
    """The files of compiled code, and when each was written."""
    return {str(path): path.stat().st_mtime_ns for path in cache_folder().rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "shape",
    [TinyShape(), shape_of_type(TensorType.Q4_K, types=(("attn_v", TensorType.Q6_K), ("output", TensorType.Q8_0)))],
)
def test_what_is_compiled_in_advance_is_what_the_workers_run(shape: TinyShape) -> None:
    spec = tiny_spec(shape)
    for kv_type in KV_TYPES.values():
        run = {format_.name for format_ in formats_of(spec, kv_type)}
        assert set(tile_types(spec, kv_type)) - {VALUES} == run
        assert (VALUES in tile_types(spec, kv_type)) == (kv_type == TensorType.Q8_0)


def test_no_tiles_of_other_caches_are_compiled() -> None:
    spec = tiny_spec(shape_of_type(TensorType.Q4_K))  # its norms and router are F32
    names = {name: set(tile_types(spec, kv_type)) for name, kv_type in KV_TYPES.items()}
    assert names["f16"] - names["f32"] == {"F16"}
    assert names["bf16"] - names["f32"] == {"BF16"}
    assert names["q8_0"] - names["f32"] == {"Q8_0", VALUES}


def test_workers_find_all_compiled_code_in_the_cache_and_write_none(ray_node: None, model_of: ModelOf) -> None:
    before = kept()
    WorkerProcesses(model_of(TinyShape()), 1).close()
    assert kept() == before
