"""The measuring commands as a person runs them, with workers of a tiny model."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from numoe.coordinator.machine.model_file import read_model
from numoe.coordinator.measuring.saved_logits import open_saved
from tests.coordinator.commands.numoe_process import NUMOE, lines
from tests.system.conftest import compile_all

PATIENCE_SECONDS = 240.0  # starting takes seconds, on a machine that is busy with other things minutes
TEXT = "The quick brown fox jumps over the lazy dog, and 12 others: no matter why! " * 30


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    compile_all()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


def numoe(*arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [NUMOE, *map(str, arguments), "--threads-per-worker", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == status, done.stderr
    return done


def test_bench_measures_every_case_on_as_many_workers_as_serve_would_start(served_model: Path) -> None:
    cases = ("-p", "16,32", "-n", "4", "-pg", "8,2", "-d", "0", "-d", "40", "-np", "1,3", "-r", "2")
    done = numoe("bench", served_model, *cases, "-o", "json", "--workers", "2", "--bandwidth", "50")
    entries = json.loads(done.stdout)
    alone = [(16, 0), (32, 0), (0, 4), (8, 2)]
    assert [(one["n_prompt"], one["n_gen"], one["n_depth"]) for one in entries if one["n_streams"] == 1] == [
        (*pair, depth) for depth in (0, 40) for pair in alone
    ]
    assert sum(one["n_streams"] == 3 for one in entries) == 10
    for one in entries:
        assert (one["n_workers"], one["n_threads"], len(one["samples_ns"])) == (2, 2, 2)
        assert one["avg_ts"] > 0
        assert one["read_gb_per_second"] > 0
        assert one["fill"] == pytest.approx(one["read_gb_per_second"] / 50, abs=1e-6)
        assert 0 <= one["waiting"] <= 1
    assert "fill: of 50.0 GB/s of node 0, as told" in done.stderr


def test_sweep_bench_writes_its_table_and_draws_it(served_model: Path, tmp_path: Path) -> None:
    picture = tmp_path / "sweep.png"
    done = numoe("sweep-bench", "-m", served_model, "-c", "96", "-ub", "32", "-n", "3", "--plot", picture)
    head, names, rule, *rows = done.stdout.strip().replace("\n\n", "\n").splitlines()
    assert head.startswith(
        "main: n_kv_max = 96, n_batch = 32, n_ubatch = 32, flash_attn = 1, n_gpu_layers = 0, n_threads"
    )
    table = list(csv.reader(io.StringIO("\n".join(row.strip("|") for row in [names, *rows])), delimiter="|"))
    assert [cell.strip() for cell in table[0]][:7] == ["PP", "TG", "N_KV", "T_PP s", "S_PP t/s", "T_TG s", "S_TG t/s"]
    assert [[cell.strip() for cell in row[:3]] for row in table[1:]] == [
        ["32", "3", str(depth)] for depth in (0, 32, 64)
    ]
    assert re.fullmatch(r"\|[-|]+\|", rule)
    assert "\x1b" not in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_profile_accounts_for_all_of_a_decode(served_model: Path, tmp_path: Path) -> None:
    page, trace = tmp_path / "profile.html", tmp_path / "trace.json"
    flags = ("-n", "40", "-d", "70", "--workers", "2", "--bandwidth", "50", "--output-format", "json")
    done = numoe("profile", served_model, *flags, "--html", page, "--trace", trace)
    facts = json.loads(done.stdout)
    assert (facts["steps"], facts["tokens"]) == (40, 40)
    assert facts["accounted"] >= 0.97
    assert facts["peak_bytes_per_second"] == 50e9
    assert [worker["worker"] for worker in facts["workers"]] == [0, 1]
    spec, _, _ = read_model(served_model)
    read = 0.0
    for worker in facts["workers"]:
        phases = {phase["name"]: phase for phase in worker["phases"]}
        assert len(worker["threads"]) == 1
        assert phases["attention_exchange"]["work"] > 0
        assert phases["attend"]["kv_bytes"] > 0
        assert phases["attention_output"]["weight_bytes"] > 0
        read += sum(phase["weight_bytes"] + phase["kv_bytes"] for phase in worker["phases"])
    assert read / (facts["seconds"] / facts["steps"]) == pytest.approx(facts["bytes_per_second"])
    assert len(facts["layers"]) == spec.layers
    assert {event["pid"] for event in json.loads(trace.read_text())["traceEvents"]} == {0, 1}
    assert page.read_text().startswith("<!doctype html>")
    assert facts["remarks"] or facts["traffic"]


def test_a_profile_and_a_bench_count_the_same_bytes_of_a_decode(served_model: Path) -> None:
    """Their speeds differ, as times do; the bytes of a token must not: 1 % is what choices of experts vary."""
    depth, tokens = 64, 64
    flags = ("-d", str(depth), "-n", str(tokens), "--workers", "1")
    profiled = json.loads(numoe("profile", served_model, *flags, "--output-format", "json").stdout)
    [measured] = json.loads(numoe("bench", served_model, "-p", "0", "-r", "1", *flags, "-o", "json").stdout)
    of_profile = profiled["bytes_per_second"] * profiled["seconds"] / tokens
    assert of_profile == pytest.approx(1e9 * measured["read_gb_per_second"] / measured["avg_ts"], rel=0.03)


def test_an_interrupted_sweep_keeps_its_rows_and_its_picture(served_model: Path, tmp_path: Path) -> None:
    picture = tmp_path / "sweep.png"
    flags = ("-c", "4000", "-ub", "1", "--output-format", "jsonl", "--plot", str(picture), "--threads-per-worker", "1")
    command = [NUMOE, "sweep-bench", str(served_model), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        first = json.loads(lines(process.stdout).readline())
        process.send_signal(signal.SIGINT)
        rest, log = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, log
    assert (first["n_kv"], first["pp"], first["tg"]) == (0, 1, 1)
    assert [json.loads(row)["n_kv"] for row in rest.splitlines()] == list(range(1, len(rest.splitlines()) + 1))
    assert picture.exists()
    assert "Traceback" not in log


@pytest.fixture(scope="module")
def saved(served_model: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """All log-probabilities of the text by two workers, and what was printed meanwhile."""
    base = tmp_path_factory.mktemp("saved") / "base"
    flags = ("-f", text, "-c", "64", "--kl-divergence-base", base, "--workers", "2")
    return base, numoe("perplexity", served_model, *flags).stdout.splitlines()


def perplexity_of(final: str) -> tuple[float, float]:
    """The estimate and its error."""
    match = re.fullmatch(r"Final estimate: PPL = (\d+\.\d{4}) \+/- (\d+\.\d{5})", final)
    assert match
    return float(match[1]), float(match[2])


def test_perplexity_is_that_of_the_saved_log_probabilities(served_model: Path, saved: tuple[Path, list[str]]) -> None:
    base, (running, final) = saved
    spec, tokenizer, _ = read_model(served_model)
    found = open_saved(base, spec.vocabulary)
    tokens = tokenizer.encode(TEXT, special=False)
    assert not tokenizer.add_bos
    np.testing.assert_array_equal(found.tokens.reshape(-1), tokens[: found.tokens.size])
    assert re.findall(r"\[(\d+)\]\d+\.\d{4},", running) == [str(number + 1) for number in range(len(found.tokens))]
    words = found.rows(0, 31 * len(found.tokens))
    scale, least = words[:, :4].copy().view("<f4").T.astype(np.float64)
    following = found.tokens[:, 33:].reshape(-1)
    nll = -(scale * words[np.arange(len(following)), 4 + following] + least)
    perplexity, error = perplexity_of(final)
    # Saved numbers are rounded to half a scale, printed ones to 4 digits.
    assert perplexity == pytest.approx(np.exp(nll.mean()), rel=1e-3)
    assert error == pytest.approx(np.exp(nll.mean()) * nll.std(ddof=1) / len(nll) ** 0.5, rel=1e-2)


def test_a_model_does_not_diverge_from_itself(served_model: Path, saved: tuple[Path, list[str]]) -> None:
    base, (_, final) = saved
    told = numoe("perplexity", served_model, "--kl-divergence", "--kl-divergence-base", base).stdout
    compared = re.search(r"Mean PPL\(Q\) +: +(\d+\.\d{6}) ", told)
    assert compared
    assert float(compared[1]) == pytest.approx(perplexity_of(final)[0], rel=1e-5)
    assert "Same top p: 100.000 ± 0.000 %" in told
    divergence = re.search(r"Mean    KLD: +(-?\d+\.\d+)", told)
    assert divergence
    assert abs(float(divergence[1])) < 1e-5
