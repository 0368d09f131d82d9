"""Two workers on two nodes: the guest's kernel, not the workers' own reports, says where every page and thread is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from numoe.keeper.client import close_all
from numoe.model.architectures.spec import ModelSpec
from numoe.model.machine.id_lists import format_id_list, parse_id_list
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.protos.locality import Locality
from numoe.protos.messages import Chunk, Sampling, Step, StepLimits
from tests.keeper.running import Running
from tests.numa.kernel_view import OneNodeOnly, anonymous_bytes, mapped_bytes, migrate, thread_cpus
from tests.worker.placing.loading_process import STEP_SECONDS, Group, LoadingProcess, group

pytestmark = [pytest.mark.numa, pytest.mark.timeout(900)]  # all is emulated, on CPUs that others use too

LIMITS = StepLimits(step_tokens=16, sequences=4, context_tokens=128, kv_blocks=1024, block_positions=64)
PROMPT = (5, 17, 300, 42, 8)
TOKENS = 6


@pytest.fixture(scope="module")
def shards(spec: ModelSpec) -> ShardPlan:
    """As `numoe serve` would split it."""
    made = make_plan(spec, read_topology(), PlanOptions())
    assert len({shard.node for shard in made.shards}) > 1
    return made


def start(shards: ShardPlan, worker: int) -> LoadingProcess:
    shard = shards.shards[worker]
    return LoadingProcess(shard.node, format_id_list(shard.cpus))


@pytest.fixture(scope="module")
def processes(shards: ShardPlan) -> Iterator[list[LoadingProcess]]:
    started = [start(shards, shard.worker) for shard in shards.shards]
    yield started
    for process in started:
        process.close()


def load(made: Group, processes: Sequence[LoadingProcess]) -> list[Locality]:
    """All workers of a group, at once."""
    for worker, process in enumerate(processes):
        made.channel.counters(worker)  # the coordinator looks at them before any worker has touched them
        process.send(made.assignment(worker))
    answers = [process.answer() for process in processes]
    assert all(isinstance(answer, Locality) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, Locality)]


def generate(made: Group) -> list[int]:
    """Greedy tokens after PROMPT."""
    drawn: list[int] = []
    tokens: tuple[int, ...] = PROMPT
    for number in range(TOKENS):
        first = len(PROMPT) + number - 1 if number else 0
        chunk = Chunk(first, np.array(tokens, np.int32), np.zeros(1, np.int32), Sampling())
        made.channel.publish(Step(number + 1, (chunk,)))
        result = made.channel.wait(STEP_SECONDS)
        assert result is not None, "the workers do not answer"
        tokens = (int(result.token_ids[0]),)
        drawn += tokens
    return drawn


def assert_at_home(made: Group, shards: ShardPlan, processes: Sequence[LoadingProcess], told: list[Locality]) -> None:
    """Each worker's pages and threads are where the plan says, as seen from outside, and the worker said the same."""
    for shard, process, found in zip(shards.shards, processes, told, strict=True):
        node, allowed = shard.node, set(shard.cpus)
        held = anonymous_bytes(process.pid)
        assert set(held) == {node}
        assert held[node] > found.weights[node] + found.kv[node] > 16 << 20
        first, last = made.layout.parts[shard.worker]
        part = mapped_bytes(process.pid, made.channel.descriptor, first, last)
        assert part == found.arena == {node: last - first}
        cpus = thread_cpus(process.pid)
        assert len(cpus) >= found.threads
        assert all(set(parse_id_list(listed)) <= allowed for listed in cpus)
        assert (found.level, found.problem, found.moved_bytes) == ("cpus+memory, verified", "", 0)
        assert found.threads_inside == found.threads
        assert [set(layer) for layer in found.layers] == [{node}] * 3


def test_all_memory_and_threads_are_on_their_own_node_also_after_a_worker_was_killed(
    spec: ModelSpec, shards: ShardPlan, processes: list[LoadingProcess]
) -> None:
    with group(spec, shards, LIMITS) as made:
        told = load(made, processes)
        tokens = generate(made)
        assert_at_home(made, shards, processes, told)
        processes[1].close()  # by SIGKILL; a group that lost one is replaced as a whole
    processes[1] = start(shards, 1)
    with group(spec, shards, LIMITS) as made:
        told = load(made, processes)
        assert generate(made) == tokens
        assert_at_home(made, shards, processes, told)


def test_weights_that_outlive_a_killed_worker_are_on_its_node_and_not_read_again(
    spec: ModelSpec, shards: ShardPlan, processes: list[LoadingProcess], running: Running
) -> None:
    with group(spec, shards, LIMITS, running.path) as made:
        told = load(made, processes)
        tokens = generate(made)
        kept = running.client.items()
        processes[1].close()
    processes[1] = start(shards, 1)
    with group(spec, shards, LIMITS, running.path) as made:
        again = load(made, processes)
        assert generate(made) == tokens
    assert [found.weights for found in again] == [found.weights for found in told]
    assert [found.level for found in again] == ["cpus+memory, verified"] * 2
    [one] = [one for one in kept if one.name == "1/loaded"]
    assert one.descriptor is not None
    size = os.fstat(one.descriptor).st_size
    assert mapped_bytes(processes[1].pid, one.descriptor, 0, size) == {shards.shards[1].node: size}
    close_all(kept)


def test_one_worker_draws_the_same_tokens(spec: ModelSpec, shards: ShardPlan, processes: list[LoadingProcess]) -> None:
    with group(spec, shards, LIMITS) as made:
        load(made, processes)
        tokens = generate(made)
    alone = make_plan(spec, read_topology(), PlanOptions(workers=1, nodes=(shards.shards[0].node,)))
    with group(spec, alone, LIMITS) as made:
        load(made, processes[:1])
        assert generate(made) == tokens


def test_memory_that_was_moved_away_is_found_and_comes_back_with_the_next_group(
    spec: ModelSpec, shards: ShardPlan, processes: list[LoadingProcess]
) -> None:
    here, there = (shard.node for shard in shards.shards[:2])
    with group(spec, shards, LIMITS) as made:
        [before, _] = load(made, processes)
        migrate(processes[0].pid, here, there)
        found = processes[0].look()
    assert found.kv == {there: before.kv[here]}
    assert found.weights == {there: before.weights[here]}
    assert (
        f"found {before.weights[here]:,} bytes of weights ({before.weights[here]:,} on node {there})" in found.problem
    )
    assert found.level == "cpus+memory"
    with group(spec, shards, LIMITS) as made:
        again = load(made, processes)
    assert [found.level for found in again] == ["cpus+memory, verified"] * 2


@pytest.mark.skipif("NUMA_GUEST" not in os.environ, reason="makes a control group: only in the guest")
def test_a_worker_bound_to_the_wrong_node_is_refused_and_its_memory_moved_where_it_may_be(
    spec: ModelSpec, shards: ShardPlan, processes: list[LoadingProcess]
) -> None:
    """Worker 0's process, bound to its node, is ordered to be on the other, where it may have no memory at first."""
    here, there = (shard.node for shard in shards.shards[:2])
    wrong = replace(shards.shards[0], node=there, cpus=shards.shards[1].cpus)
    misplaced = replace(shards, shards=(wrong, *shards.shards[1:]))

    def try_to_load(allow: bool) -> Locality | str:
        with group(spec, misplaced, LIMITS) as made:
            return processes[0].load(made.assignment(0, allow))

    with OneNodeOnly(processes[0].pid, here):
        refused, allowed = try_to_load(allow=False), try_to_load(allow=True)
    assert isinstance(refused, str)
    assert isinstance(allowed, Locality)
    weights = allowed.weights[here]
    assert refused.startswith(f"worker 0: found {weights:,} bytes of weights ({weights:,} on node {here})")
    assert "threads may run on other CPUs" in refused
    assert f"its memory is bound to node {here}; expected all on node {there}" in refused
    assert "--allow-remote-memory" in refused
    assert set(allowed.kv) == {here}
    assert (allowed.level, allowed.moved_bytes) == ("cpus+memory", 0)
    moved = try_to_load(allow=True)
    assert isinstance(moved, Locality)
    assert set(moved.weights) == set(moved.kv) == {there}
    assert moved.moved_bytes >= moved.weights[there] + moved.kv[there]
    assert "bytes" not in moved.problem
    assert f"its memory is bound to node {here}" in moved.problem
    assert isinstance(try_to_load(allow=False), str)
