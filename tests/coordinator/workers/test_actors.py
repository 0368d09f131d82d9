"""Why a worker's process ended before it could speak to Ray is found in what it wrote, whatever failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from numoe.coordinator.workers.actors import TELLING, cause_of_death, failure


def start(told: Path, *command: str) -> subprocess.Popen[bytes]:
    """As Ray does: by a shell, in which the command is one line."""
    return subprocess.Popen(["/bin/sh", "-c", TELLING, str(told), *command])


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["/no/such/python"], "not found"),
        ([sys.executable, "-m", "numoe.no_such"], "No module named numoe.no_such"),
        ([sys.executable, "-c", "import no_such"], "ModuleNotFoundError: No module named 'no_such'"),
    ],
)
def test_a_process_that_fails_before_anything_of_ours_runs_is_told(
    tmp_path: Path, command: list[str], why: str
) -> None:
    told = tmp_path / "told"
    process = start(told, *command)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # nobody has waited for it yet
    found = failure(told.read_text())
    assert found is not None
    assert why in found
    process.wait()
    assert why in str(failure(told.read_text()))


def test_a_process_that_lives_and_one_that_ends_without_a_word_have_not_failed(tmp_path: Path) -> None:
    """Python warns of many things, and who was killed for want of memory is started again."""
    told, silent = tmp_path / "told", tmp_path / "silent"
    with start(told, "/bin/sh", "-c", "echo a warning >&2; exec sleep 600") as living:
        while "a warning" not in told_by(told):
            assert living.poll() is None
        assert failure(told.read_text()) is None
        living.kill()
    start(silent, "/bin/false").wait()
    assert failure(silent.read_text()) is None
    assert failure("") is None


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (signal.SIGBUS, " of a bus error: a mapped file was cut off or cannot be read, or memory failed"),
        (signal.SIGILL, " of an illegal instruction: this CPU lacks what the kernels are made of"),
        (signal.SIGKILL, ""),
    ],
)
def test_what_killed_a_process_is_found_in_its_last_words(tmp_path: Path, number: signal.Signals, cause: str) -> None:
    told = tmp_path / "told"
    code = "import faulthandler, os, sys; faulthandler.enable(open(sys.argv[1], 'a')); os.kill(os.getpid(), {})"
    process = subprocess.run([sys.executable, "-c", code.format(int(number)), str(told)], check=False)
    assert process.returncode == -number
    assert cause_of_death(told.read_text()) == cause


def test_the_error_that_ended_a_computing_thread_is_told_in_one_line() -> None:
    told = "pid 7\na warning\nnumoe: a wait inside a step passed its deadline\x1b\n"
    assert cause_of_death(told) == ": a wait inside a step passed its deadline?"


def told_by(told: Path) -> str:
    return told.read_text() if told.exists() else ""
