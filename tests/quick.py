"""The tests that a change most likely breaks, within two minutes: python -m tests.quick [ROOM ...]

Without a room: those whose files differ from the last commit, or were changed by it if none does. A room's own tests
come first, then those of the rooms that import it, the nearest first; tests marked slow are left to `make test`. After
BUDGET_SECONDS no further test is begun, and END_SECONDS end the one that runs, as one may that compiles kernels into an
empty cache: what is left counts as skipped.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from types import FrameType

import pytest

from tests.project.rooms import ROOMS, room_of_path, rooms_above

ROOT = Path(__file__).parents[1]
BUDGET_SECONDS = 100.0  # nearly all tests take less than what is left of the two minutes
END_SECONDS = 115.0
ALWAYS = ("tests/project/test_architecture.py",)


class Budget:
    """A plugin of pytest that skips what would be begun too late, and what is not over in the end."""

    def __init__(self, seconds: float, end_seconds: float) -> None:
        """Begin no test after `seconds` from now; end the last one after `end_seconds`."""
        self._last_begin = time.monotonic() + seconds
        self._runs = False
        signal.signal(signal.SIGUSR1, self._end)  # SIGALRM is pytest-timeout's
        timer = threading.Timer(end_seconds, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.daemon = True
        timer.start()

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._last_begin = -math.inf
        if self._runs:  # and is not being cleaned up after
            pytest.skip("the two minutes of `make quick` are over")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        if time.monotonic() > self._last_begin:
            pytest.skip(f"the {BUDGET_SECONDS:.0f} s of `make quick` are over")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        self._runs = True
        try:
            return (yield)
        finally:
            self._runs = False


def changed_rooms() -> list[str]:
    """The rooms of what differs from the last commit, else of what the last commit changed."""
    changed = _git("diff", "--name-only", "HEAD") + _git("ls-files", "--others", "--exclude-standard")
    paths = changed or _git("diff", "--name-only", "HEAD~1", "HEAD")
    return [room for room in ROOMS if room in {room_of_path(path) for path in paths}]


def tests_for(rooms: list[str]) -> list[str]:
    """The files of tests to run, in this order."""
    above = {other for room in rooms for other in rooms_above(room)} - set(rooms)
    tops = {room.split("/")[0] for room in rooms}
    nearest = sorted(above, key=lambda room: (room.split("/")[0] not in tops, list(ROOMS).index(room)))
    folders = [ROOT / "tests" / room for room in (*rooms, *nearest)]
    return [*ALWAYS, *(str(path.relative_to(ROOT)) for folder in folders for path in sorted(folder.glob("test_*.py")))]


def _git(*words: str) -> list[str]:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.split()


def main(named: list[str]) -> int:
    """Run them; the exit status is pytest's."""
    unknown = [room for room in named if room not in ROOMS]
    if unknown:
        sys.stderr.write(f"{', '.join(unknown)}: no such room; there are {', '.join(ROOMS)}\n")
        return 2
    rooms = named or changed_rooms()
    if rooms:
        sys.stderr.write(f"rooms: {', '.join(rooms)}\n")
    else:
        sys.stderr.write("no room was changed: name one, as in make quick ROOM=model/gguf\n")
    return int(pytest.main(["-q", "-m", "not slow", *tests_for(rooms)], [Budget(BUDGET_SECONDS, END_SECONDS)]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
