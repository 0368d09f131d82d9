"""numactl's words mean what its users and llama.cpp's know, on two described sockets of 20 cores and 192 GiB each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from numoe.coordinator.machine.numa import plan_options
from numoe.coordinator.machine.planning import decide_plan
from numoe.coordinator.settings import ServeSettings, WorkerSettings
from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.memory_policy import MemoryPolicy, PolicyKind
from numoe.model.machine.topology import Topology
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.plan_file import from_toml, to_toml
from numoe.protos.errors import SetupError
from tests.machines import TWO_XEON_6138, restrict, write, write_machine
from tests.model.planning.examples import sized_spec
from tests.tiny_model import TinyShape

SPEC = sized_spec(TinyShape(layers=24, width=2048, expert_width=2048, query_heads=32, vocabulary=32768))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command runs on CPU 27: of node 1."""
    folder = write_machine(tmp_path_factory.mktemp("machine"), TWO_XEON_6138)
    write(folder, "proc/self/stat", f"77 (a (name) R) R {' '.join(['1'] * 35)} 27 0 0")
    return folder


@pytest.fixture(scope="module")
def sockets(root: Path) -> Topology:
    return read_topology(root)


def planned(topology: Topology, **words: Any) -> ShardPlan:
    """What would be served."""
    return decide_plan(SPEC, topology, ServeSettings(workers=WorkerSettings(**words))).plan


def started_by(topology: Topology, kind: PolicyKind, *nodes: int) -> Topology:
    """As it is to a command with a policy from outside, which does not bind."""
    return replace(topology, policy=MemoryPolicy(kind, nodes))


def places(plan: ShardPlan) -> list[tuple[tuple[int, ...], str, str]]:
    """The nodes, the threads' CPUs, and all CPUs of every worker."""
    return [
        (shard.memory_nodes, format_id_list(shard.cpus), format_id_list(shard.allowed_cpus)) for shard in plan.shards
    ]


BOTH = [((0,), "0-19", "0-19"), ((1,), "20-39", "20-39")]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({}, BOTH),
        ({"numa": "distribute"}, BOTH),
        ({"numa": "numactl"}, BOTH),
        ({"numa": "isolate"}, [((1,), "20-39", "20-39")]),
        ({"numa": "isolate", "cpus": "18-24,58-64"}, [((1,), "20-24", "20-24")]),
        ({"numa": "isolate", "workers": 2}, [((1,), "20-29", "20-29"), ((1,), "30-39", "30-39")]),
        ({"numa": "none"}, [((0, 1), "0-39", "0-79")]),
        ({"numa": "none", "threads": 3}, [((0, 1), "0-2", "0-79")]),
        ({"numa": "none", "threads_per_worker": 3}, [((0, 1), "0-2", "0-79")]),
        ({"numa": "none", "membind": "0"}, [((0,), "0-39", "0-79")]),
        ({"numa": "none", "cpus": "0-9,20-29"}, [((0, 1), "0-9,20-29", "0-9,20-29")]),
        ({"numa": "none", "interleave": "all"}, [((0, 1), "0-39", "0-79")]),
        ({"interleave": "all"}, [((0, 1), "0-39", "0-39")]),
        ({"interleave": "1"}, [((1,), "0-39", "0-39")]),
        ({"interleave": "0-1", "cpus": "0-9", "workers": 1}, [((0, 1), "0-9", "0-9")]),
        ({"cpus": "0-9,20-29"}, [((0,), "0-9", "0-9"), ((1,), "20-29", "20-29")]),
        ({"cpus": "all", "membind": "all"}, BOTH),
        ({"cpus": "5,45"}, [((0,), "5", "5")]),
        ({"membind": "1"}, [((1,), "20-39", "20-39")]),
        ({"threads": 16}, [((0,), "0-7", "0-7"), ((1,), "20-27", "20-27")]),
        ({"threads": 80}, [((0,), "0-19,40-59", "0-19,40-59"), ((1,), "20-39,60-79", "20-39,60-79")]),
        ({"threads": 5, "workers": 2}, [((0,), "0-1", "0-1"), ((1,), "20-22", "20-22")]),
        ({"threads": 1}, [((0,), "0", "0")]),
    ],
    ids=str,
)
def test_workers_run_where_the_words_say(
    sockets: Topology, words: dict[str, Any], expected: list[tuple[tuple[int, ...], str, str]]
) -> None:
    plan = planned(sockets, **words)
    assert places(plan) == expected
    assert from_toml(to_toml(plan), SPEC) == plan


@pytest.mark.parametrize(
    ("words", "memory", "pinned"),
    [
        ({"numa": "none"}, "any", False),
        ({"numa": "none", "membind": "0-1"}, "bind", False),
        ({"numa": "none", "interleave": "all"}, "interleave", False),
        ({"interleave": "all"}, "interleave", True),
    ],
    ids=str,
)
def test_memory_and_threads_of_one_worker_are_spread_as_the_words_say(
    sockets: Topology, words: dict[str, Any], memory: str, pinned: bool
) -> None:
    [shard] = planned(sockets, **words).shards
    assert shard.spread is not None
    assert (shard.spread.memory, shard.pinned) == (memory, pinned)


def test_what_is_allowed_is_all_that_there_is(root: Path, tmp_path: Path) -> None:
    """numactl -C, taskset and cpusets show in /proc/self/status, numactl --membind in the policy alone."""
    outside = write_machine(tmp_path, TWO_XEON_6138)
    restrict(outside, "0-9,20-29", "0-1")
    both = [((0,), "0-9", "0-9"), ((1,), "20-29", "20-29")]
    for numa in (None, "distribute", "numactl"):
        assert places(planned(read_topology(outside), numa=numa)) == both
    bound = read_topology(root, MemoryPolicy("bind", (0,)))
    assert bound.forbidden_nodes == (1,)
    for numa in (None, "distribute", "numactl"):
        assert places(planned(bound, numa=numa)) == [((0,), "0-19", "0-19")]
    assert places(planned(bound, numa="none")) == [((0,), "0-39", "0-79")]
    with pytest.raises(SetupError, match="--interleave is 1, and 1 may not be used here"):
        planned(bound, interleave="1")


def test_an_interleaving_numactl_around_the_command_is_kept_where_that_was_asked_for(sockets: Topology) -> None:
    interleaved = started_by(sockets, "interleave", 0, 1)
    plan = planned(interleaved, numa="numactl")
    assert places(plan) == [((0, 1), "0-39", "0-39")]
    assert "numactl around the command (interleave: node 0-1) is kept" in plan.notes
    plan = planned(interleaved, numa="numactl", membind="1")
    assert places(plan) == [((1,), "0-39", "0-39")]
    for words in ({}, {"numa": "distribute"}, {"numa": "isolate"}):
        plan = planned(interleaved, **words)
        assert all(shard.spread is None for shard in plan.shards)
        [note] = [note for note in plan.notes if "is not kept" in note]
        assert note.endswith("workers bind their memory to their nodes; --numa numactl keeps it")
    plan = planned(interleaved, numa="none")
    assert plan.shards[0].spread is not None
    assert plan.shards[0].spread.memory == "any"
    assert any("is kept" in note for note in plan.notes)
    assert not [note for note in planned(sockets, numa="none").notes if "numactl" in note]


def test_a_preference_of_numactl_around_the_command_is_told_not_to_be_kept(sockets: Topology) -> None:
    plan = planned(started_by(sockets, "preferred", 1), numa="numactl")
    assert places(plan) == BOTH
    assert any("(preferred: node 1) is not kept" in note and "--numa none keeps it" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"numa": "distribute", "interleave": "all"}, "distribute binds the memory of every worker to its own node"),
        ({"numa": "isolate", "interleave": "all"}, "isolate takes the memory of one node"),
        ({"numa": "numactl", "interleave": "all"}, "numactl takes the nodes from numactl around the command"),
        ({"membind": "0", "interleave": "0"}, "--interleave puts pages on nodes in turn, --membind on any"),
        ({"numa": "isolate", "nodes": (0,)}, "isolate takes the node on which the command was started, --nodes names"),
        ({"numa": "none", "nodes": (0,)}, "--numa none starts one worker on the cores of all nodes"),
        ({"interleave": "0", "nodes": (0,)}, "--interleave starts one worker on the cores of all nodes"),
        ({"numa": "none", "workers": 2}, "--workers is 2, and memory that is bound to no single node is one worker's"),
        ({"threads": 4, "threads_per_worker": 2}, "--threads counts the threads of all workers together"),
        ({"threads": 1, "workers": 2}, "threads: found 1 of all workers together, expected 2 to 1024 for 2 workers"),
        ({"plan_file": Path("p"), "numa": "none", "cpus": "0"}, "where workers run, --numa and --cpus too"),
        ({"cpus": "0-9,80"}, "--cpus is 0-9,80, and 80 may not be used here"),
        ({"membind": "2"}, "--membind is 2, and 2 may not be used here; expected nodes with memory .* some of 0-1"),
        ({"interleave": "0-2"}, "--interleave is 0-2, and 2 may not be used here"),
        ({"interleave": "!0"}, "--interleave is '!0', expected numbers of nodes with memory such as 0-2,8, or all"),
        ({"cpus": ""}, "--cpus is '', expected numbers of CPUs"),
        ({"cpus": "9-1"}, "--cpus is '9-1', expected numbers of CPUs"),
        ({"cpus": "0-19", "membind": "1"}, "the CPUs that may be used are of node 0: .* say --numa none"),
        ({"numa": "isolate", "cpus": "0-19"}, "was started on CPU 27 of node 1, of which --cpus 0-19 has none"),
        ({"numa": "isolate", "membind": "0"}, "was started on CPU 27 of node 1, whose memory --membind 0 leaves out"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused_with_its_reason(sockets: Topology, words: dict[str, Any], why: str) -> None:
    with pytest.raises(SetupError, match=why):
        planned(sockets, **words)


def test_isolate_wants_to_know_where_the_command_runs(tmp_path: Path) -> None:
    nothing = read_topology(write_machine(tmp_path, TWO_XEON_6138))
    with pytest.raises(SetupError, match="does not say on which CPU the command was started"):
        plan_options(nothing, WorkerSettings(numa="isolate"))


def test_interleaving_is_predicted_to_be_slower_than_binding(sockets: Topology) -> None:
    """Half of the pages are read from afar, at 10/21 of the rate where nothing was measured."""

    def experts_seconds(**words: Any) -> float:
        workers = WorkerSettings(bandwidth=(105.0,), **words)
        return decide_plan(SPEC, sockets, ServeSettings(workers=workers)).choice.best.alone.seconds.experts

    bound, spread, alone = experts_seconds(), experts_seconds(interleave="all"), experts_seconds(numa="isolate")
    assert spread / bound == pytest.approx(0.5 + 0.5 * 2.1, rel=0.05)
    assert alone / bound == pytest.approx(2.0, rel=0.05)
    assert experts_seconds(numa="none") == spread
