"""A worker's memory and threads are counted when it has loaded; what is not where it was ordered to be is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from numoe.model.architectures.reading import model_spec
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.model_file import open_gguf
from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.memory_lock import lock_limit
from numoe.model.machine.memory_policy import try_policies
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.assignment import binding_of
from numoe.model.planning.plan import ShardPlan, Spread
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.protos.locality import Locality
from numoe.protos.messages import StepLimits
from numoe.worker.loading.arrange import arrange
from numoe.worker.placing.locality import problem_of
from tests.tiny_model import TinyShape, write_tiny_model
from tests.worker.placing.loading_process import LoadingProcess, group, loading_process
from tests.worker.placing.refusing import MLOCK, MOVE_PAGES, SET_MEMPOLICY

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


def spread(shards: ShardPlan, memory: Literal["interleave", "bind", "any"], floating: bool) -> ShardPlan:
    """The plan with its one worker on all nodes."""
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    return moved(shards, spread=Spread(memory, tuple(NODES), cpus if floating else ()))


def load_spread(made: ShardPlan, spec: ModelSpec, refused: tuple[int, ...] = ()) -> Locality | str:
    """In a process of its own, started as in service."""
    [shard] = made.shards
    with loading_process(*binding_of(shard), refused) as process:
        return load(process, spec, made)


def test_a_worker_that_is_not_to_be_bound_is_not_and_says_where_its_pages_lie(
    spec: ModelSpec, shards: ShardPlan
) -> None:
    found = load_spread(spread(shards, "any", floating=True), spec)
    assert isinstance(found, Locality)
    assert (found.level, found.problem, found.moved_bytes) == ("none", "", 0)
    assert found.threads_inside == found.threads
    if found.verified:
        assert set(found.weights) | set(found.kv) | set(found.arena) <= set(NODES)
        assert sum(found.weights.values()) > 0


@pytest.mark.parametrize(
    ("memory", "floating", "level"),
    [
        ("interleave", False, "cpus+interleaved, verified"),
        ("interleave", True, "interleaved, verified"),
        ("bind", True, "memory, verified"),
    ],
)
def test_a_spread_worker_is_held_to_its_policy(
    memory: Literal["interleave", "bind"], floating: bool, level: str, spec: ModelSpec, shards: ShardPlan
) -> None:
    made = spread(shards, memory, floating)
    found = load_spread(made, spec)
    if try_policies(NODES[0]).errors:
        pytest.skip("the kernel refuses memory policies to this process")
    assert isinstance(found, Locality)
    assert (found.level, found.problem) == (level, "")


@pytest.mark.parametrize(
    ("memory", "why"),
    [
        ("interleave", "the kernel refuses to put its pages on several nodes in turn"),
        ("bind", "the kernel refuses to bind its memory"),
    ],
)
def test_a_policy_that_the_kernel_refuses_is_no_spread(
    memory: Literal["interleave", "bind"], why: str, spec: ModelSpec, shards: ShardPlan
) -> None:
    refused = load_spread(spread(shards, memory, floating=True), spec, (SET_MEMPOLICY,))
    assert isinstance(refused, str)
    assert why in refused
    assert "--allow-remote-memory" in refused


@pytest.mark.parametrize(
    ("megabytes", "told"),
    [((1000, 1100), ""), ((1000, 1300), "found its pages unevenly spread (1,000,000,000 on node 0, "), ((0, 100), "")],
)
def test_pages_in_turn_are_even_where_there_are_enough_to_tell(
    megabytes: tuple[int, int], told: str, shards: ShardPlan
) -> None:
    [shard] = moved(shards, spread=Spread("interleave", (0, 1))).shards
    weights = {node: 1_000_000 * size for node, size in enumerate(megabytes)}
    found = Locality("cpus+interleaved", True, (weights,), {}, {}, {}, moved_bytes=0, threads=1, threads_inside=1)
    assert problem_of(found, shard).startswith(told)
    assert bool(problem_of(found, shard)) == bool(told)


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


def locked_bytes(pid: int) -> int:
    """What the kernel keeps of a process from being swapped out."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmLck:")]
    return 1024 * int(line.split()[1])


def test_weights_are_locked_where_that_was_asked_for_and_may_be(spec: ModelSpec, shards: ShardPlan) -> None:
    [shard] = shards.shards
    arranged = arrange(spec, shards, shard)
    with group(spec, shards, LIMITS) as made, loading_process(*binding_of(shard)) as process:
        assert not isinstance(process.load(made.assignment(0)), str)
        assert locked_bytes(process.pid) == 0
    with group(spec, shards, LIMITS) as made, loading_process(*binding_of(shard)) as process:
        found = process.load(replace(made.assignment(0), lock_weights=True))
        limit = lock_limit()
        if limit is not None and limit < 2 * arranged.bytes:
            assert isinstance(found, str)
        else:
            assert arranged.bytes <= locked_bytes(process.pid) < 2 * arranged.bytes + (1 << 20)


def test_weights_that_cannot_be_locked_are_refused(spec: ModelSpec, shards: ShardPlan) -> None:
    [shard] = shards.shards
    with group(spec, shards, LIMITS) as made, loading_process(*binding_of(shard), (MLOCK,)) as process:
        refused = process.load(replace(made.assignment(0), lock_weights=True))
    assert isinstance(refused, str)
    assert refused.startswith("--mlock: worker 0 has ")
    for part in (
        "RLIMIT_MEMLOCK",
        "ulimit -l",
        "LimitMEMLOCK=infinity",
        "leave --mlock away",
        "Operation not permitted",
    ):
        assert part in refused
