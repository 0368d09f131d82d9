"""`make quick` ends in time, whatever a test does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = """
import sys
import pytest
from tests.quick import Budget
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", sys.argv[1]], [Budget(600.0, float(sys.argv[2]))]))
"""
TESTS = """
import os
import signal
import threading

def test_before():
    pass

def test_without_end():
    TELL
    threading.Event().wait()

def test_after():
    pass
"""


@pytest.mark.parametrize(
    ("end_seconds", "tell", "expected"),
    [(600.0, "os.kill(os.getpid(), signal.SIGUSR1)", "1 passed, 2 skipped"), (0.1, "", "skipped")],
)
def test_the_test_that_runs_in_the_end_is_skipped_and_so_are_those_after_it(
    end_seconds: float, tell: str, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "test_some.py"
    path.write_text(TESTS.replace("TELL", tell))
    command = [sys.executable, "-c", RUN, str(path), str(end_seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, 5), done.stdout + done.stderr
    assert expected in done.stdout
    assert "failed" not in done.stdout
