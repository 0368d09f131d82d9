"""How cores wait is really measured, here on as few as there are."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from numoe.worker.placing.wait_speed import PIECES


@pytest.fixture(scope="module")
def answer() -> dict[str, object]:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("one CPU waits for none")
    task = json.dumps({"pairs": [["cache", *cpus[:2]]] * 2, "teams": [cpus[:2], cpus[1::-1]]})
    command = [sys.executable, "-m", "numoe.worker.placing.wait_speed", task]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        out, _ = process.communicate("go\n", timeout=120)
    found: dict[str, object] = json.loads(out)
    return found


def test_what_is_asked_for_is_measured(answer: dict[str, object]) -> None:
    passes, teams = answer["passes"], answer["teams"]
    assert isinstance(passes, dict)
    assert isinstance(teams, list)
    assert list(passes) == ["cache"]
    assert 1e-9 < passes["cache"] < 1e-2
    assert [team["threads"] for team in teams] == [2, 2]
    for team in teams:
        assert 1e-9 < team["barrier"] < 1e-1
        assert 0 <= team["claims"] < 1e-1
    assert PIECES > 2  # so that half of them are claimed
