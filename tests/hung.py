"""What a test that ran out of time waited for, as far as the kernel tells: added to its report.

A hang that nobody can repeat is only found by what it leaves: which child lives, in which system call each of its
threads waits, and who else holds the pipes whose end the test awaits.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

MOST_LINES = 400
TOLD = ("Name", "State", "SigBlk", "SigIgn", "SigCgt")  # of /proc/PID/task/TID/status


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add processes and pipes to the report of a phase that ran out of time."""
    report = yield
    raised = call.excinfo and call.excinfo.value
    if isinstance(raised, subprocess.TimeoutExpired) or str(raised).startswith("Timeout ("):
        report.sections.append(("Processes when the time was up", "\n".join(processes_and_pipes()[:MOST_LINES])))
    return report


def processes_and_pipes() -> list[str]:
    """A line for each thread below this process, and one for each process that holds a pipe which this one has."""
    own = {pipe: number for number, pipe in _pipes(os.getpid())}
    lines = [f"this process {os.getpid()} holds {own}"]
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        with suppress(OSError):
            held = {number: own[pipe] for number, pipe in _pipes(pid) if pipe in own} if pid != os.getpid() else {}
            if held:
                pairs = ", ".join(f"{theirs} (here {ours})" for theirs, ours in held.items())
                lines.append(f"{pid} {_read(Path(f'/proc/{pid}/comm'))} holds {pairs}")
            if pid == os.getpid() or not _is_below(pid, os.getpid()):
                continue
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
            for task in sorted(Path(f"/proc/{pid}/task").iterdir()):
                where = " < ".join(re.findall(r"\] ([\w.]+)", _read(task / "stack"))) or _read(task / "wchan")
                status = dict(line.split(":\t", 1) for line in _read(task / "status").splitlines() if ":\t" in line)
                told = ", ".join(f"{key} {status.get(key, '?').strip()}" for key in TOLD)
                lines.append(f"{pid}/{task.name} {told} in {where}: {command}")
    return lines


def _pipes(pid: int) -> Iterator[tuple[int, str]]:
    """The descriptors of a process that are pipes, with the kernel's names of these."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if (pipe := os.readlink(entry)).startswith("pipe:"):
                yield int(entry.name), pipe


def _is_below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        pid = int(_read(Path(f"/proc/{pid}/stat")).rpartition(") ")[2].split()[1])
        if pid == ancestor:
            return True
    return False


def _read(path: Path) -> str:
    """Empty where the kernel does not tell."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
