"""The whole of python -m bench on a tiny model, and the numbers it counts with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import Options, chosen_shapes
from bench.models import CASES, model_path
from bench.ours import Layout, Workload
from numoe.coordinator.commands.demo_model import ShapeOptions
from numoe.protos.errors import SetupError

ROOT = Path(__file__).parents[2]
SMALL = (
    *("--shape", "qwen3moe", "--layers", "1", "--rounds", "1", "--repetitions", "1", "--layouts", "1x1"),
    *("--prompt", "64", "--decode", "4", "--depths", "128", "--streams", "1,3"),
    *("--stream-prompt", "8", "--stream-decode", "4", "--disturbed", "--kv-type", "q8_0"),
)


def test_a_tiny_model_is_measured_from_end_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", *SMALL, "--folder", str(tmp_path), "--ik-llama-cpp", str(tmp_path)]
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    [path] = tmp_path.glob("results-*.json")
    assert str(path) in done.stdout
    figures = {figure["metric"]: figure for figure in json.loads(path.read_text())["figures"]}
    measured = ["pp64", "tg4", "pp64 @ d128", "tg4 @ d128", "1 x tg4", "3 x tg4", "3 x tg4 alike"]
    sampled = ["tg4 sampled", "1 x tg4 sampled", "3 x tg4 sampled"]
    assert list(figures) == [*measured, *sampled, "tg16 disturbed"]
    # The same experts in all: what one stream reads, for three tokens.
    assert 3 * figures["3 x tg4 alike"]["weight_bytes"] == pytest.approx(figures["1 x tg4"]["weight_bytes"])
    assert figures["3 x tg4 alike"]["weight_bytes"] < figures["3 x tg4"]["weight_bytes"]
    for figure in figures.values():
        assert len(figure["tokens_per_second"]) == 1
        assert figure["tokens_per_second"][0] > 0
        assert figure["weight_bytes"] > 0
        assert figure["metric"] in done.stdout


def test_there_is_room_for_the_deepest_and_for_all_streams() -> None:
    settings = Workload(decode=128, depths=(4096,), streams=(1, 100), stream_prompt=64, stream_decode=32).settings()
    assert settings.context_tokens == 4608  # a prompt of 512 behind 4096 others
    assert settings.kv_tokens == 100 * 128


def test_cases_are_chosen_by_name_and_shrunk_by_layers() -> None:
    assert list(chosen_shapes((), ShapeOptions())) == list(CASES)
    [(name, shape)] = chosen_shapes(("30b-q2_k",), ShapeOptions(layers=2)).items()
    assert (name, shape.layers, shape.mix) == ("30b-q2_k", 2, "Q2_K")
    [(name, own)] = chosen_shapes((), ShapeOptions(shape="qwen3moe", layers=1, type="q4_k_m")).items()
    assert (name, own.layers, own.mix) == ("qwen3moe-q4_k_m", 1, "Q4_K_M")
    with pytest.raises(SetupError, match="known are 30b-q8_0"):
        chosen_shapes(("30b",), ShapeOptions())


def test_another_shape_is_another_file() -> None:
    paths = {model_path(Path(), "a", shape) for shape in CASES.values()}
    assert len(paths) == len(CASES)


def test_layouts_are_read() -> None:
    assert Options(layouts="1x0,2x1").worker_layouts() == [Layout(1, 0), Layout(2, 1)]
    with pytest.raises(SetupError, match="expected WORKERSxTHREADS"):
        Options(layouts="two").worker_layouts()
