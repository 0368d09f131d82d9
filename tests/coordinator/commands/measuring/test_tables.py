"""The tables of the measuring commands, byte for byte as the tools that people come from write them."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from importlib.metadata import version
from typing import Any, cast

import pytest

from numoe.coordinator.commands.measuring.bench_table import BenchFacts, bench_table
from numoe.coordinator.commands.measuring.running import Rows
from numoe.coordinator.commands.measuring.sweep_table import SweepFacts, sweep_table
from numoe.coordinator.measuring.cases import Case, CaseResult
from numoe.coordinator.measuring.peaks import Peaks, operations_per_token
from numoe.coordinator.measuring.steps import Measurement
from numoe.coordinator.measuring.sweep import Sweep, SweepRow
from numoe.coordinator.measuring.workers import MeasuredWorkers
from numoe.coordinator.settings import EngineSettings, KvType, ServeSettings
from numoe.coordinator.workers.group import HostGroup
from numoe.model.planning.prediction.speeds import Speeds
from tests.coordinator.profiling.made_up import made_up_profile
from tests.tiny_model import TinyShape, tiny_spec

SPEC = tiny_spec(TinyShape())
KV_POSITION = 2 * SPEC.layers * SPEC.kv_heads * SPEC.head_size * 2  # bytes, f16


def measured(kv_type: KvType = "f16", step_tokens: int = 512) -> MeasuredWorkers:
    settings = ServeSettings(engine=EngineSettings(kv_type=kv_type, step_tokens=step_tokens))
    group = cast(HostGroup, None)
    return MeasuredWorkers(
        SPEC, group, settings, Peaks(50e9, 2e12, ""), Speeds({0: 50e9}, "as told"), 2, 32, 'a "processor"'
    )


def facts(**changes: Any) -> BenchFacts:
    made = BenchFacts(measured(), "f.gguf", "qwen3moe 30B.A3B Q8_0", 32_476_534_784, 30_532_122_624)
    return replace(made, **changes)


PROMPT = CaseResult(Case(512, 0), (Measurement(2.0, 1 << 30, 0.25), Measurement(2.5, 1 << 30, 0.75)))
DECODE = CaseResult(Case(0, 128, depth=4096), (Measurement(4.0, 100_000_000_000, 0.0),))


def test_the_markdown_is_llama_benchs_with_ours_behind() -> None:
    table = bench_table("md", facts())
    head = table.head().splitlines()
    assert head[0] == (
        "| model                          |       size |     params | backend    | threads |            test |"
        "                  t/s |   GB/s |  fill |"
    )
    assert head[1] == (
        "| ------------------------------ | ---------: | ---------: | ---------- | ------: | --------------: |"
        " -------------------: | -----: | ----: |"
    )
    assert table.row(PROMPT) == (
        "| qwen3moe 30B.A3B Q8_0          |  30.25 GiB |    30.53 B | CPU        |      32 |           pp512 |"
        "       230.40 ± 36.20 |        |       |\n"
    )
    kv = 128 * (4096 + 64) * KV_POSITION
    assert table.row(DECODE) == (
        "| qwen3moe 30B.A3B Q8_0          |  30.25 GiB |    30.53 B | CPU        |      32 |   tg128 @ d4096 |"
        f"         32.00 ± 0.00 | {(100e9 + kv) / 4 / 1e9:6.1f} | {(100e9 + kv) / 4 / 50e9:5.0%} |\n"
    )
    assert table.foot() == f"\nbuild: numoe {version('numoe')}\n"


def test_what_is_not_as_usual_has_a_column() -> None:
    table = bench_table("md", facts(measured=measured("q8_0", 1024), bytes=135 << 20, parameters=134_515_008))
    assert "| threads | n_ubatch | type_k | type_v |            test |" in table.head()
    assert "| 135.00 MiB |   134.52 M | CPU        |      32 |     1024 |   q8_0 |   q8_0 |" in table.row(PROMPT)


@pytest.mark.parametrize("rows", [[], [PROMPT], [PROMPT, DECODE]])
def test_json_is_whole_however_many_rows_there_are(rows: list[CaseResult]) -> None:
    table = bench_table("json", facts())
    entries = json.loads(table.head() + "".join(table.row(row) for row in rows) + table.foot())
    assert [(entry["n_prompt"], entry["n_gen"], entry["n_depth"]) for entry in entries] == [
        (row.case.prompt, row.case.generated, row.case.depth) for row in rows
    ]


def test_every_format_has_llama_benchs_names_and_the_same_values() -> None:
    [entry] = json.loads(bench_table("json", facts()).head() + bench_table("json", facts()).row(PROMPT) + "]")
    lines = bench_table("jsonl", facts())
    [line] = (lines.head() + lines.row(PROMPT) + lines.foot()).splitlines()
    table = bench_table("csv", facts())
    [row, other] = csv.DictReader(io.StringIO(table.head() + table.row(PROMPT) + table.row(DECODE) + table.foot()))
    assert {**json.loads(line), "test_time": ""} == {**entry, "test_time": ""}
    names = {
        *("build_commit", "build_number", "cpu_info", "gpu_info", "backends", "model_filename", "model_type"),
        *("model_size", "model_n_params", "n_batch", "n_ubatch", "n_threads", "type_k", "type_v", "n_gpu_layers"),
        *("flash_attn", "use_mmap", "embeddings", "n_prompt", "n_gen", "n_depth", "test_time"),
        *("avg_ns", "stddev_ns", "avg_ts", "stddev_ts"),
    }
    assert names <= entry.keys()
    assert row.keys() == entry.keys() - {"samples_ns", "samples_ts"}
    assert (row["cpu_info"], row["flash_attn"], row["avg_ts"]) == ('a "processor"', "1", "230.400000")
    assert (other["n_gen"], other["n_depth"]) == ("128", "4096")
    assert entry["samples_ns"] == [2_000_000_000, 2_500_000_000]
    assert entry["samples_ts"] == [256.0, 204.8]
    assert (entry["avg_ns"], entry["stddev_ns"]) == (2_250_000_000, 353_553_391)
    assert entry["waiting"] == 0.5
    computed = 512 * operations_per_token(SPEC, with_output=False) / 2.25
    assert entry["share_of_peak"] == pytest.approx(computed / 2e12, abs=1e-6)


SWEEP = SweepFacts(measured(), Sweep(1024, 512, 128))
ROW = SweepRow(512, Measurement(0.262, 1, 0.015), Measurement(1.135, 20_000_000_000, 0.0), made_up_profile())


def test_the_sweeps_table_is_llama_sweep_benchs_with_ours_behind() -> None:
    table = sweep_table("table", SWEEP)
    assert table.head() == (
        "\nmain: n_kv_max = 1024, n_batch = 512, n_ubatch = 512, flash_attn = 1, n_gpu_layers = 0, n_threads = 32, "
        "n_threads_batch = 32\n\n"
        "|    PP |     TG |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |"
        "   GB/s |  fill | wait TG |  peak | wait PP |  attn |  exps |  xchg |\n"
        "|-------|--------|--------|----------|----------|----------|----------|"
        "--------|-------|---------|-------|---------|-------|-------|-------|\n"
    )
    read = 20e9 + 128 * (512 + 64) * KV_POSITION
    peak = 512 * operations_per_token(SPEC, with_output=False) / 0.262 / 2e12
    assert table.row(ROW) == (
        "|   512 |    128 |    512 |    0.262 |  1954.20 |    1.135 |   112.78 |"
        f" {read / 1.135 / 1e9:6.1f} | {read / 1.135 / 50e9:5.0%} |    0.0% | {peak:5.0%} |    1.5% |"
        "   46% |   46% |    0% |\n"
    )
    [*_, unknown] = table.row(replace(ROW, decode_profile=None)).rpartition("1.5% |")
    assert unknown == "       |       |       |\n"


def test_the_sweeps_json_has_llama_sweep_benchs_names_first() -> None:
    table = sweep_table("jsonl", SWEEP)
    line = table.head() + table.row(ROW)
    assert line.startswith(
        '{"n_kv_max": 1024, "n_batch": 512, "n_ubatch": 512, "flash_attn": 1, "n_gpu_layers": 0, "n_threads": 32, '
        '"n_threads_batch": 32, "pp": 512, "tg": 128, "n_kv": 512, "t_pp": 0.262000, "speed_pp": 1954.198473, '
        '"t_tg": 1.135000, "speed_tg": 112.775330, '
    )
    assert line.endswith(" }\n")
    assert json.loads(line)["waiting_pp"] == 0.015
    assert json.loads(line)["attention_tg"] == pytest.approx(18 / 39, abs=1e-6)
    assert json.loads(line)["head_tg"] == pytest.approx(2 / 39, abs=1e-6)


def test_rows_are_dropped_where_standard_output_was_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    with Rows(1, "measuring") as rows:
        rows.write("a row\n")
