"""The arithmetic of the table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.figures import OURS, Figure, Machine
from bench.report import failures, median_speed, rows

MACHINE = Machine(read_bytes_per_second=20e9, operations_per_second=1e12)
DECODE = Figure("a", OURS, "tg128", 0, (10.0, 12.0), "1x2", 2, weight_bytes=1e9, kv_bytes=0.5e9)
PROMPT = Figure("a", OURS, "pp512", 0, (100.0,), "1x2", 2, weight_bytes=1e7, operations=5e9)


def peer(engine: str, metric: str, *speeds: float) -> Figure:
    return Figure("a", engine, metric, 0, speeds, threads=2)


def test_the_median_is_over_all_repetitions_of_all_rounds() -> None:
    assert median_speed([DECODE, replace(DECODE, round=1, tokens_per_second=(14.0, 90.0, 1.0))]) == 12.0
    assert median_speed([]) == 0.0


def test_a_decode_is_compared_with_the_best_peer_and_the_bandwidth() -> None:
    [row] = rows([DECODE, peer("ik", "tg128", 8.0), peer("llama.cpp", "tg128", 5.5)], MACHINE)
    assert row.speeds == {OURS: 11.0, "ik": 8.0, "llama.cpp": 5.5}
    assert row.ratio == pytest.approx(11 / 8)
    assert row.read_bytes_per_second == pytest.approx(11 * 1.5e9)
    assert row.fill == pytest.approx(16.5 / 20)
    assert row.peak == 0.0


def test_a_prompt_is_compared_with_the_peak_of_its_threads() -> None:
    [row] = rows([PROMPT], MACHINE)
    assert row.peak == pytest.approx(100 * 5e9 / 2e12)
    assert row.ratio == 0.0


def test_layouts_stand_apart_beside_the_same_peers() -> None:
    found = rows([DECODE, replace(DECODE, layout="2x1", tokens_per_second=(4.0,)), peer("ik", "tg128", 8.0)], MACHINE)
    assert [(row.layout, row.speeds[OURS], row.speeds["ik"]) for row in found] == [
        ("1x2", 11.0, 8.0),
        ("2x1", 4.0, 8.0),
    ]


def test_disturbed_speeds_are_shares_of_each_engine_s_own() -> None:
    name = "tg16 disturbed"
    figures = [DECODE, peer("ik", "tg128", 8.0), replace(DECODE, metric=name, tokens_per_second=(5.5,))]
    row = rows([*figures, peer("ik", name, 0.8)], MACHINE)[-1]
    assert row.metric == name
    assert row.kept == pytest.approx({OURS: 0.5, "ik": 0.1})


def test_a_failure_is_told_once_and_has_no_row() -> None:
    failed = Figure("a", "ik", "llama-bench", 0, (), error="ended with 3: out of memory")
    assert rows([failed, replace(failed, round=1)], MACHINE) == []
    assert failures([failed, replace(failed, round=1)]) == ["a: ik: llama-bench ended with 3: out of memory"]


def test_what_only_a_peer_measured_is_shown_too() -> None:
    [row] = rows([peer("ik", "tg128 @ d4096", 3.0)], MACHINE)
    assert (row.metric, row.layout, row.speeds) == ("tg128 @ d4096", "", {"ik": 3.0})
