"""A Ray node that misses its own time limit is started again, and what it said is told."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from numoe.coordinator.workers.ray_node import start_ray
from numoe.protos.errors import SetupError

SLOW_AGENTS = """
import os, sys, time
if any("agent" in argument for argument in sys.orig_argv):
    time.sleep(max(0.0, float(os.environ["SLOW_UNTIL"]) - time.time()))
"""
START = """
from numoe.coordinator.workers.ray_node import start_ray
import ray
start_ray({"numa0": 1.0}, attempts=ATTEMPTS)
print("started with", ray.cluster_resources()["numa0"])
"""


def start_with_slow_agents(folder: Path, attempts: int) -> subprocess.CompletedProcess[str]:
    """Start Ray in a process of its own, with agents that take longer than the first attempt."""
    (folder / "sitecustomize.py").write_text(SLOW_AGENTS)
    return subprocess.run(
        [sys.executable, "-c", START.replace("ATTEMPTS", str(attempts))],
        env={**os.environ, "PYTHONPATH": str(folder), "SLOW_UNTIL": str(time.time() + 28.0)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_node_that_was_too_slow_is_started_again(tmp_path: Path) -> None:
    done = start_with_slow_agents(tmp_path, attempts=3)
    assert done.stdout.splitlines()[-1] == "started with 1.0", done.stderr
    assert "ray_did_not_start" in done.stdout + done.stderr


def test_a_node_that_never_starts_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    done = start_with_slow_agents(tmp_path, attempts=1)
    assert done.returncode != 0
    error = done.stderr.splitlines()[-1]
    assert "ServiceError: Ray did not start" in error
    assert "raylet.out: " in error
    assert "Timed out waiting" in error


@pytest.mark.parametrize("folder", ["o'neil", 'a "b"'])
def test_a_path_that_ray_cannot_start_from_is_refused_at_once(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", f"/home/{folder}/.venv/bin/python")
    attempts: list[str] = []
    with pytest.raises(SetupError, match=r"has .* in its path"):
        start_ray({"numa0": 1.0}, look=lambda: attempts.append("one"))
    assert attempts == []
