"""What starting a group of workers does, and does not do."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from itertools import product, starmap
from pathlib import Path

import pytest
import ray

from numoe.coordinator.settings import KV_TYPES, EngineSettings, ServeSettings
from numoe.coordinator.workers import actors
from numoe.coordinator.workers.group import HostGroup
from numoe.coordinator.workers.started import tile_types
from numoe.kernels.cpu.jit import cache_folder
from numoe.model.gguf.kv_types import KvTypes
from numoe.model.gguf.tensors import TensorType
from numoe.model.planning.plan import ShardPlan
from numoe.protos.errors import SetupError, WorkerLost
from numoe.worker.running.step_records import formats_of
from numoe.worker.running.warm import VALUES
from tests.coordinator.hub import stand_in
from tests.system.clients import SERVE_FLAGS, SHAPE, ask, connected
from tests.system.conftest import ModelOf
from tests.system.groups import TinyModel, WorkerProcesses, plan_of
from tests.system.serve_process import serving
from tests.tiny_model import TinyShape, shape_of_type, split_paths, tiny_spec, write_tiny_model


def kept() -> dict[str, int]:
    """The files of compiled code, and when each was written."""
    return {str(path): path.stat().st_mtime_ns for path in cache_folder().rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "shape",
    [TinyShape(), shape_of_type(TensorType.Q4_K, types=(("attn_v", TensorType.Q6_K), ("output", TensorType.Q8_0)))],
)
def test_what_is_compiled_in_advance_is_what_the_workers_run(shape: TinyShape) -> None:
    spec = tiny_spec(shape)
    for types in starmap(KvTypes, product(KV_TYPES.values(), repeat=2)):
        run = {format_.name for format_ in formats_of(spec, types)}
        assert set(tile_types(spec, types)) - {VALUES} == run
        assert (VALUES in tile_types(spec, types)) == (types.values == TensorType.Q8_0)


def test_no_tiles_of_other_caches_are_compiled() -> None:
    spec = tiny_spec(shape_of_type(TensorType.Q4_K))  # its norms and router are F32
    names = {name: set(tile_types(spec, KvTypes(type_, type_))) for name, type_ in KV_TYPES.items()}
    assert names["f16"] - names["f32"] == {"F16"}
    assert names["bf16"] - names["f32"] == {"BF16"}
    assert names["q8_0"] - names["f32"] == {"Q8_0", VALUES}


def test_workers_find_all_compiled_code_in_the_cache_and_write_none(ray_node: None, model_of: ModelOf) -> None:
    before = kept()
    WorkerProcesses(model_of(TinyShape()), 1).close()
    assert kept() == before


def start_and_close(model: TinyModel, plan: ShardPlan) -> None:
    group = HostGroup(model.spec, plan, ServeSettings(engine=EngineSettings(context_tokens=64)), node=None)
    try:
        group.start(lambda phase, done, total: None)
    finally:
        group.close()


def test_why_a_worker_s_process_does_not_start_is_told_at_once(ray_node: None, model_of: ModelOf) -> None:
    model = model_of(TinyShape())
    [shard] = plan_of(model.spec, 1, 1).shards
    plan = replace(plan_of(model.spec, 1, 1), shards=(replace(shard, cpus=(9999,)),))
    with pytest.raises(SetupError, match=r"worker 0 did not start: cannot run on CPUs 9999: \[9999\] are not"):
        start_and_close(model, plan)


def test_what_a_worker_says_once_it_runs_is_in_the_logs_of_ray(processes: WorkerProcesses) -> None:
    for pid in processes.pids:
        assert Path(os.readlink(f"/proc/{pid}/fd/2")).parent.name == "logs"


def test_a_worker_that_dies_before_it_is_known_is_a_lost_worker(
    ray_node: None, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is tried again, where other failures to start are not."""
    start = actors._start_actor

    def start_and_kill(*arguments: object) -> object:
        handle = start(*arguments)  # type: ignore[arg-type]
        ray.kill(handle)
        return handle

    monkeypatch.setattr(actors, "_start_actor", start_and_kill)
    model = model_of(TinyShape())
    with pytest.raises(WorkerLost, match="worker 0 died while starting"):
        start_and_close(model, plan_of(model.spec, 1, 1))


HOSTILE = """
import os
with open(os.path.join(os.path.dirname(__file__), "imported"), "a") as told:
    told.write(f"{__file__} by {os.getpid()}\\n")
raise ImportError("this is not the module you look for")
"""


async def test_nothing_of_the_current_folder_becomes_part_of_a_service_installed_below_a_space(
    served_model: Path, tmp_path: Path
) -> None:
    folder, installed = tmp_path / "downloads", tmp_path / "a b"
    installed.symlink_to(Path(sys.executable).parents[1], target_is_directory=True)
    folder.mkdir()
    for name in ("numpy", "random", "logging", "subprocess", "types", "ray", "json", "numoe"):
        (folder / f"{name}.py").write_text(HOSTILE)
    program = (str(installed / "bin/python"), "-P", "-c", "from numoe.coordinator.commands.main import main; main()")
    with serving(tmp_path / "log", str(served_model), *SERVE_FLAGS, program=program, folder=folder) as server:
        async with connected(server.address) as client:
            assert len(await client.tokens(ask(3))) == 3
    assert not (folder / "imported").exists(), (folder / "imported").read_text()


async def test_a_model_by_name_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_model(tmp_path / "M-F32.gguf", SHAPE, parts=3)
    parts = split_paths(tmp_path / "M-F32.gguf", 3)
    files = {f"F32/{part.name}": part for part in parts}
    with stand_in.serving(stand_in.StandIn(files={"ann/Tiny-GGUF": files})) as hub:
        for name, value in hub.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        with serving(tmp_path / "log", "-hf", "ann/Tiny-GGUF:f32", *SERVE_FLAGS) as server:
            async with connected(server.address) as client:
                tokens = await client.tokens(ask(5))
    assert len(tokens) == 5
    # Once for their heads, with which such small files come whole, and once to keep.
    assert hub.bytes_sent == 2 * sum(part.stat().st_size for part in parts)
