"""Bandwidth is really measured, by processes bound to memory, with buffers too small to mean anything."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from numoe.coordinator.machine import measuring
from numoe.coordinator.machine.measuring import LEAST_BYTES, measure_bandwidth
from numoe.model.machine.bandwidth import cores_of_nodes
from numoe.model.machine.topology import Topology
from numoe.model.machine.topology_reading import read_topology
from numoe.protos.errors import ServiceError


@pytest.fixture(scope="module")
def here() -> Topology:
    return read_topology()


def test_every_pair_of_nodes_is_measured(here: Topology) -> None:
    steps: list[tuple[int, int]] = []
    measured = measure_bandwidth(here, LEAST_BYTES, lambda done, total: steps.append((done, total)))
    readers = [node.id for node in here.nodes if node.cores]
    memories = [node.id for node in here.nodes if node.memory_bytes]
    found = {(read.cores_of, read.memory_of): read.bytes_per_second for read in measured.bandwidth.reads}
    assert set(found) == {(reader, memory) for reader in readers for memory in memories}
    assert all(1e7 < rate < 1e14 for rate in found.values())
    assert (measured.bandwidth.processor, measured.bandwidth.cores) == (here.processor.name, cores_of_nodes(here))
    assert steps == [(done, len(memories)) for done in range(len(memories))]


def test_a_node_without_room_is_left_out_and_named(here: Topology) -> None:
    full = replace(here, nodes=tuple(replace(node, available_bytes=LEAST_BYTES) for node in here.nodes))
    measured = measure_bandwidth(full)
    assert measured.bandwidth.reads == ()
    assert f"node {here.nodes[0].id} has too little free memory to measure" in measured.remarks


def test_memory_that_lies_elsewhere_gives_no_figure(here: Topology) -> None:
    """A node that is not there: the kernel refuses the policy, and the pages come from a real node."""
    astray = replace(here.nodes[0], id=1000)
    measured = measure_bandwidth(Topology((astray,)), LEAST_BYTES)
    if "the kernel does not tell whether node 1000's memory lay there" in measured.remarks:
        pytest.skip("the kernel refuses to tell where pages are")
    assert measured.bandwidth.reads == ()
    assert measured.remarks == ("100% of the memory asked for on node 1000 came from elsewhere",)


TALKATIVE = """
import json, sys
sys.stderr.write("x" * (1 << 20) + "\\nthe reason\\n")
print("ready", flush=True)
assert input() == "go"
print(json.dumps({"placed": 1.0, "rates": {"0": 1e9}}))
"""


@pytest.mark.parametrize("fails", [False, True])
def test_a_measuring_process_may_write_more_than_a_pipe_holds(
    here: Topology, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    program = TALKATIVE.replace('print("ready"', 'sys.exit(3); print("ready"') if fails else TALKATIVE
    monkeypatch.setattr(measuring, "ANSWER_SECONDS", 20.0)  # after which it was given up, and called slow
    monkeypatch.setattr(measuring, "python_command", lambda *arguments: [sys.executable, "-c", program])
    topology = Topology((replace(here.nodes[0], id=0),))
    if fails:
        with pytest.raises(ServiceError, match=r"measuring node 0's memory failed: the reason$"):
            measure_bandwidth(topology, LEAST_BYTES)
    else:
        assert [read.bytes_per_second for read in measure_bandwidth(topology, LEAST_BYTES).bandwidth.reads] == [1e9]


def test_a_failing_process_says_why_in_one_line(here: Topology) -> None:
    absent = replace(here.nodes[0], cores=((100_000,),))
    with pytest.raises(ServiceError, match=r"measuring node \d+'s memory failed: cannot run on CPUs 100000"):
        measure_bandwidth(Topology((absent,)), LEAST_BYTES)
