"""What a client gets is measured over HTTP, of a real service."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from bench.served.sampled import median_within
from tests.tiny_model import TinyShape, write_tiny_model

ROOT = Path(__file__).parents[2]


def test_a_median_lies_where_it_is_said_to_lie_nine_times_of_ten() -> None:
    random = np.random.default_rng(0)
    for count in (10, 39, 200):
        found = [median_within(list(random.normal(1.0, 0.1, count))) for _ in range(2000)]
        held = np.mean([low <= 1.0 <= high for _, low, high in found])
        assert 0.88 < held < 0.98
        assert all(low <= middle <= high for middle, low, high in found)
    assert median_within([1.5]) == (1.5, 1.5, 1.5)


def test_greedy_and_sampled_answers_are_compared_in_pairs(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    write_tiny_model(model, TinyShape())
    command = [sys.executable, "-m", "bench.served.sampled", str(model), "--streams", "1,3", "--minutes", "0.02"]
    told = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in told.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == ["1", "3"]
    for _, pairs, greedy_ms, ratio, within in rows:
        low, high = map(float, within.split(" to "))
        assert int(pairs) > 0 < float(greedy_ms)
        assert low <= float(ratio) <= high
