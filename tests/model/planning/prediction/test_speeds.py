"""Speeds of a machine are measured, told or guessed, and say which."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from numoe.model.gguf.tensors import RUNNABLE_TYPES
from numoe.model.machine.bandwidth import Bandwidth, Read
from numoe.model.machine.topology_reading import read_topology
from numoe.model.machine.waits import TeamWait, Waits
from numoe.model.planning.prediction.speeds import (
    GIGA,
    REFERENCE_PEAK,
    STREAM_RATES,
    guessed_speeds,
    measured_speeds,
    told_speeds,
)
from numoe.model.planning.prediction.worker_rates import rates_of
from numoe.model.planning.splitting import make_plan
from numoe.protos.errors import PlanError
from tests.machines import EPYC_9755, TWO_XEON_6138, XEON_6138, XEON_6238, write_machine
from tests.model.planning.prediction.test_cost import TWO_NODES
from tests.tiny_model import TinyShape, tiny_spec


def test_every_runnable_format_has_a_rate() -> None:
    assert set(STREAM_RATES) == RUNNABLE_TYPES


def test_a_guess_is_named_one_and_what_was_told_is_taken() -> None:
    assert "guessed" in guessed_speeds(TWO_NODES).source
    assert guessed_speeds(TWO_NODES).node_bandwidth == {0: 100 * GIGA, 1: 100 * GIGA}
    assert told_speeds(TWO_NODES, [90.0]).node_bandwidth == {0: 90 * GIGA, 1: 90 * GIGA}
    assert told_speeds(TWO_NODES, [90.0, 80.0]).node_bandwidth == {0: 90 * GIGA, 1: 80 * GIGA}


def test_what_was_measured_counts_and_nodes_without_a_figure_are_guessed() -> None:
    found = measured_speeds(TWO_NODES, Bandwidth("", "2026-11-23", (), (Read(0, 0, 9e10), Read(0, 1, 1e10))))
    assert found.node_bandwidth == {0: 90 * GIGA, 1: 100 * GIGA}
    assert "measured" in found.source


def test_cores_without_fused_integer_products_are_known_by_number_and_flags(tmp_path: Path) -> None:
    """Skylake-SP and Cascade Lake have one number; only one of them has VNNI."""
    machines = [replace(TWO_XEON_6138, chip=chip) for chip in (XEON_6138, XEON_6238)]
    seen = [read_topology(write_machine(tmp_path / str(number), one)) for number, one in enumerate(machines)]
    assert {topology.processor.model for topology in seen} == {85}
    skylake, cascade_lake = (guessed_speeds(topology).integer_peak for topology in seen)
    assert skylake < 0.25 * REFERENCE_PEAK
    assert cascade_lake == pytest.approx(2 * skylake, rel=0.05)  # two instructions for one
    assert told_speeds(seen[1], [90.0]).integer_peak == cascade_lake


@pytest.mark.parametrize(
    ("flags", "share"),
    [
        ("fpu sse2 avx2 avx512f avx512bw avx512_vnni", 1.0),
        ("fpu sse2 avx2 avx512f avx512bw", 0.24),
        ("fpu sse2 avx2 avx_vnni", 0.45),
        ("fpu sse2 avx2", 0.21),
        ("", 1.0),  # nothing is known: taken for the cores that were measured
    ],
)
def test_the_peak_of_a_core_comes_from_its_flags(tmp_path: Path, flags: str, share: float) -> None:
    """An AVX2 core was taken to be 7 times as fast as it is."""
    topology = read_topology(write_machine(tmp_path, replace(TWO_XEON_6138, chip=replace(EPYC_9755, flags=flags))))
    assert guessed_speeds(topology).integer_peak == pytest.approx(share * REFERENCE_PEAK)


def test_memory_without_cores_is_as_fast_as_the_cores_that_use_it_read_it() -> None:
    nodes = (replace(TWO_NODES.nodes[0], memory_bytes=0), replace(TWO_NODES.nodes[1], cores=()))
    topology = replace(TWO_NODES, nodes=nodes)
    made = make_plan(tiny_spec(TinyShape()), topology)
    assert [(shard.node, shard.cpus[0]) for shard in made.shards] == [(1, 0)]
    speeds = measured_speeds(topology, Bandwidth("", "2026", (), (Read(0, 1, 3e11),)))
    assert [rates.bandwidth for rates in rates_of(made.shards, topology, speeds)] == [3e11]
    unmeasured = measured_speeds(topology, Bandwidth("", "2026", (), ()))
    assert [rates.bandwidth for rates in rates_of(made.shards, topology, unmeasured)] == [20 * GIGA]


@pytest.mark.parametrize("told", [[], [1.0, 2.0, 3.0], [0.0], [-1.0, 2.0]])
def test_bandwidths_that_make_no_sense_are_refused(told: list[float]) -> None:
    with pytest.raises(PlanError, match="bandwidth: found"):
        told_speeds(TWO_NODES, told)


def test_threads_of_a_worker_wait_longer_the_more_they_are() -> None:
    speeds = guessed_speeds(TWO_NODES)
    assert speeds.wait_seconds(1) == 0.0
    assert speeds.wait_seconds(2) == pytest.approx(0.36e-6)  # as measured
    waits = [speeds.wait_seconds(threads) for threads in (2, 8, 20, 128)]
    assert waits == sorted(waits)
    assert waits[2] - waits[1] == pytest.approx(0.26e-6)  # three groups, of 7 at most instead of 8
    assert waits[-1] == pytest.approx(1.4e-6)  # 16 groups of 8, four of which come to one word first


def test_waits_are_those_that_were_measured_and_beyond_them_calculated() -> None:
    waits = Waits({}, (TeamWait(2, 1e-6, 0.0), TeamWait(8, 4e-6, 0.0)))
    speeds = measured_speeds(TWO_NODES, Bandwidth("", "2026", (), (), waits))
    assert [speeds.wait_seconds(threads) for threads in (1, 2, 5, 8)] == pytest.approx([0.0, 1e-6, 2.5e-6, 4e-6])
    guessed = guessed_speeds(TWO_NODES)
    assert speeds.wait_seconds(128) == pytest.approx(4e-6 + guessed.wait_seconds(128) - guessed.wait_seconds(8))
