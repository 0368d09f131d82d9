"""One worker on both nodes, and a command that numactl started: where pages and threads are is the kernel's word."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from numoe.model.architectures.spec import ModelSpec
from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.topology import Node, Topology
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.assignment import binding_of
from numoe.model.planning.plan import Spread
from numoe.model.planning.splitting import PlanOptions, make_plan
from numoe.protos.locality import Locality
from tests.numa.kernel_view import PAGE, anonymous_bytes, mapped_bytes, thread_cpus
from tests.numa.test_group import LIMITS, generate
from tests.worker.placing.loading_process import group, loading_process

pytestmark = [pytest.mark.numa, pytest.mark.timeout(900)]  # all is emulated, on CPUs that others use too

ROOT = Path(__file__).parents[2]
HUGE_PAGE = 2 << 20
SEEN = """
from numoe.model.machine.topology_reading import read_topology
found = read_topology()
print([node.id for node in found.nodes if node.memory_bytes], found.cpus, found.own_cpu, found.policy.kind)
"""


@pytest.fixture(scope="module")
def machine() -> Topology:
    return read_topology()


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker that was started and bound as in service."""

    told: Locality
    tokens: list[int]  # that it drew
    arena: dict[int, int]  # bytes of its part by node, and of all its own memory, and its threads' CPUs
    held: dict[int, int]
    threads: set[str]


def look_at(spec: ModelSpec, machine: Topology, spread: Spread) -> Seen:
    plan = make_plan(spec, machine, PlanOptions(spread=spread))
    with group(spec, plan, LIMITS) as made, loading_process(*binding_of(plan.shards[0])) as process:
        told = process.load(made.assignment(0))
        assert isinstance(told, Locality), told
        [(first, last)] = made.layout.parts
        arena = mapped_bytes(process.pid, made.channel.descriptor, first, last)
        return Seen(told, generate(made), arena, anonymous_bytes(process.pid), set(thread_cpus(process.pid)))


def test_a_worker_on_both_nodes_lies_as_it_was_told_and_draws_the_same_tokens(
    spec: ModelSpec, machine: Topology, nodes: tuple[Node, Node]
) -> None:
    here, there = (node.id for node in nodes)
    every = format_id_list(machine.cpus)
    spread = look_at(spec, machine, Spread("interleave", (here, there)))
    assert (spread.told.level, spread.told.problem) == ("cpus+interleaved, verified", "")
    assert spread.told.arena == spread.arena
    assert abs(spread.arena[here] - spread.arena[there]) <= PAGE  # in turn, page by page
    assert abs(spread.told.kv[here] - spread.told.kv[there]) <= HUGE_PAGE
    assert all(spread.held[node] >= spread.told.kv[node] for node in (here, there))
    assert {str(cpu) for cpu in machine.cpus} < spread.threads  # each computing thread on its own

    free = look_at(spec, machine, Spread("any", (here, there), machine.cpus))
    assert (free.told.level, free.told.problem, free.told.moved_bytes) == ("none", "", 0)
    assert free.threads == {every}
    assert free.told.arena == free.arena
    assert sum(free.told.weights.values()) == sum(spread.told.weights.values())
    assert free.tokens == spread.tokens


def test_what_numactl_around_a_command_leaves_it_is_all_that_it_sees(nodes: tuple[Node, Node]) -> None:
    """The binding of a worker does to a command what numactl --membind and --physcpubind do."""
    there = nodes[1]
    cpu = there.cpus[0]
    binding = [sys.executable, "-m", "numoe.worker.placing.binding", str(there.id), str(cpu)]
    done = subprocess.run([*binding, sys.executable, "-c", SEEN], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"[{there.id}] ({cpu},) {cpu} bind\n"
