"""Compiling before the workers start: whatever it writes, however it ends, and on which machine."""

from __future__ import annotations

import sys

import pytest

from numoe.coordinator.workers import starting
from numoe.coordinator.workers.starting import compiling, refuse_other_machine
from numoe.protos.errors import SetupError

MUCH = 1 << 20  # bytes; a pipe holds 64 KiB
PATIENCE_SECONDS = 60.0


def run(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile by another program."""
    monkeypatch.setattr(starting, "python_command", lambda *arguments: [sys.executable, "-c", program])
    with compiling(["F32"]) as warming:
        warming.wait_for(PATIENCE_SECONDS, lambda phase, done, total: None)


@pytest.mark.parametrize("code", [0, 3])
def test_compiling_may_write_more_than_a_pipe_holds(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    program = f"import sys; sys.stderr.write('x' * {MUCH} + '\\nthe reason\\n'); sys.exit({code})"
    if code == 0:
        run(program, monkeypatch)
    else:
        with pytest.raises(SetupError, match=r"^compiling the kernels failed: the reason$"):
            run(program, monkeypatch)


def test_compiling_does_not_hear_what_a_terminal_tells_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else Ctrl-C is told as a failure to compile."""
    program = "import os; assert os.getpgid(0) == os.getpid(), 'one group of processes'"
    run(program, monkeypatch)


def test_compiling_ends_with_whoever_gives_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "python_command", lambda *arguments: ["sleep", "600"])
    with pytest.raises(ZeroDivisionError), compiling(["F32"]) as warming:
        warming.wait_for(PATIENCE_SECONDS, lambda phase, done, total: 1 / 0)  # type: ignore[arg-type]
    assert warming.process.returncode is not None


@pytest.mark.parametrize("machine", ["aarch64", "riscv64"])
def test_a_machine_of_another_architecture_is_refused_in_one_line(machine: str) -> None:
    refuse_other_machine("x86_64")
    with pytest.raises(SetupError, match=rf"^this machine is {machine}, expected x86-64"):
        refuse_other_machine(machine)
