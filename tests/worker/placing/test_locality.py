"""A worker's memory and threads are counted when it has loaded; what is not where it was ordered to be is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from numoe.model.architectures.reading import model_spec
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.model_file import open_gguf
from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.protos.locality import Locality
from numoe.protos.messages import StepLimits
from tests.tiny_model import TinyShape, write_tiny_model
from tests.worker.placing.loading_process import LoadingProcess, group, loading_process
from tests.worker.placing.refusing import MOVE_PAGES, SET_MEMPOLICY

LIMITS = StepLimits(step_tokens=16, sequences=4, context_tokens=128, kv_blocks=8, block_positions=64)
NODES = [node.id for node in read_topology().nodes if node.memory_bytes and node.cores]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    path: Path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_model(path, TinyShape(layers=3))
    return model_spec(open_gguf(path))


@pytest.fixture(scope="module")
def shards(spec: ModelSpec) -> ShardPlan:
    return make_plan(spec, read_topology(), PlanOptions(workers=1, threads_per_worker=1))


@pytest.fixture(scope="module")
def process(shards: ShardPlan) -> Iterator[LoadingProcess]:
    """Bound as the plan says."""
    [shard] = shards.shards
    with loading_process(shard.node, format_id_list(shard.cpus)) as process:
        yield process


def load(process: LoadingProcess, spec: ModelSpec, shards: ShardPlan, allow: bool = False) -> Locality | str:
    with group(spec, shards, LIMITS) as made:
        return process.load(made.assignment(0, allow))


def moved(shards: ShardPlan, **changes: object) -> ShardPlan:
    """The plan with its one worker elsewhere."""
    [shard] = shards.shards
    return replace(shards, shards=(replace(shard, **changes),))  # type: ignore[arg-type]


def test_every_byte_and_thread_of_a_bound_worker_is_found_on_its_node(
    process: LoadingProcess, spec: ModelSpec, shards: ShardPlan
) -> None:
    with group(spec, shards, LIMITS) as made:
        found = process.load(made.assignment(0))
        [(first, last)] = made.layout.parts
    [shard] = shards.shards
    assert isinstance(found, Locality)
    if not found.verified or found.binding == "cpus":
        pytest.skip("the kernel refuses memory policies, or does not tell where pages are")
    assert (found.level, found.problem, found.moved_bytes) == ("cpus+memory, verified", "", 0)
    assert len(found.layers) == spec.layers
    assert all(set(layer) == {shard.node} for layer in found.layers)
    assert len({layer[shard.node] for layer in found.layers}) == 1  # equal layers
    assert found.arena == {shard.node: last - first}
    assert set(found.kv) == set(found.vocabulary) == {shard.node}
    assert found.threads_inside == found.threads > 1


@pytest.mark.skipif(len(NODES) > 1, reason="the pages can be moved where there is another node")
def test_memory_on_another_node_is_refused_unless_allowed(
    process: LoadingProcess, spec: ModelSpec, shards: ShardPlan
) -> None:
    [shard] = shards.shards
    elsewhere = moved(shards, node=shard.node + 1)
    refused = load(process, spec, elsewhere)
    allowed = load(process, spec, elsewhere, allow=True)
    if isinstance(allowed, Locality) and allowed.level != "cpus+memory":
        pytest.skip("the kernel refuses memory policies, or does not tell where pages are")
    assert isinstance(allowed, Locality)
    assert isinstance(refused, str)
    weights = allowed.weights[shard.node]
    assert refused.startswith(f"worker 0: found {weights:,} bytes of weights ({weights:,} on node {shard.node})")
    assert f"its memory is bound to node {shard.node}; expected all on node {shard.node + 1}" in refused
    assert "--allow-remote-memory" in refused
    assert allowed.problem in refused
    assert allowed.moved_bytes == 0


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one CPU only")
def test_threads_on_other_cpus_are_refused_unless_allowed(
    process: LoadingProcess, spec: ModelSpec, shards: ShardPlan
) -> None:
    [shard] = shards.shards
    other = min(os.sched_getaffinity(0) - set(shard.cpus))
    with loading_process(shard.node, format_id_list([*shard.cpus, other])) as wide:
        refused = load(wide, spec, shards)
        allowed = load(wide, spec, shards, allow=True)
    assert isinstance(refused, str)
    assert isinstance(allowed, Locality)
    assert "threads may run on other CPUs" in refused
    assert 0 < allowed.threads_inside < allowed.threads
    assert allowed.level in ("cpus+memory", "cpus")


@pytest.mark.parametrize(
    ("refused", "level"),
    [((MOVE_PAGES,), "cpus+memory"), ((SET_MEMPOLICY,), "cpus, verified"), ((SET_MEMPOLICY, MOVE_PAGES), "cpus")],
)
@pytest.mark.skipif(len(NODES) > 1, reason="without a policy pages may be on any of several nodes")
def test_what_the_kernel_refuses_is_said_and_not_held_against_the_worker(
    refused: tuple[int, ...], level: str, spec: ModelSpec, shards: ShardPlan
) -> None:
    [shard] = shards.shards
    with loading_process(shard.node, format_id_list(shard.cpus), refused) as process:
        found = load(process, spec, shards)
    assert isinstance(found, Locality)
    assert found.level == level
    assert found.problem == ""
    if MOVE_PAGES in refused:
        assert found.weights == found.kv == found.arena == {}
