"""What a test that ran out of time waited for, as far as the kernel tells: added to its report.

A hang that nobody can repeat is only found by what it leaves: which child lives, in which system call each of its
threads waits, and who else holds the pipes whose end the test awaits.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from numoe.model.machine.linux_files import labelled_lines, read_text

MOST_LINES = 400
MOST_CALLS = 5  # of a thread's stack


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add processes and pipes to the report of a phase that ran out of time."""
    report = yield
    raised = call.excinfo and call.excinfo.value
    if isinstance(raised, subprocess.TimeoutExpired) or str(raised).startswith("Timeout ("):
        report.sections.append(("Processes when the time was up", "\n".join(processes_and_pipes()[:MOST_LINES])))
    return report


def processes_and_pipes() -> list[str]:
    """What each process below this one does, and which processes hold a pipe that this one has, a line each."""
    own = {pipe: number for number, pipe in _pipes(os.getpid())}
    lines = [f"this process {os.getpid()} holds {own}"]
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        with suppress(OSError):
            held = {number: own[pipe] for number, pipe in _pipes(pid) if pipe in own} if pid != os.getpid() else {}
            if held:
                pairs = ", ".join(f"{theirs} (here {ours})" for theirs, ours in held.items())
                lines.append(f"{pid} {read_text(Path(f'/proc/{pid}/comm'))} holds {pairs}")
            if pid == os.getpid() or not _is_below(pid, os.getpid()):
                continue
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
            threads = Counter(_place(task) for task in Path(f"/proc/{pid}/task").iterdir())
            lines.append(f"{pid} {_signals(pid)}: {command}")
            lines += [f"    {count} threads: {place}" for place, count in threads.items()]
    return lines


def _pipes(pid: int) -> Iterator[tuple[int, str]]:
    """The descriptors of a process that are pipes, with the kernel's names of these."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if (pipe := os.readlink(entry)).startswith("pipe:"):
                yield int(entry.name), pipe


def _place(task: Path) -> str:
    """What a thread does, and in which calls of the kernel."""
    stack = re.findall(r"\] ([\w.]+)", read_text(task / "stack"))[:MOST_CALLS]
    return f"{_field(task / 'status', 'State')} in {' < '.join(stack) or read_text(task / 'wchan')}"


def _signals(pid: int) -> str:
    status = Path(f"/proc/{pid}/status")
    return ", ".join(f"{name} {_field(status, name)}" for name in ("SigBlk", "SigIgn", "SigCgt"))


def _field(status: Path, name: str) -> str:
    return labelled_lines(read_text(status)).get(name, "?")


def _is_below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        pid = int(read_text(Path(f"/proc/{pid}/stat")).rpartition(") ")[2].split()[1])
        if pid == ancestor:
            return True
    return False
