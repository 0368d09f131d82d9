"""A keeper of a test, and the process that it belongs to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from numoe.keeper import process
from numoe.keeper.client import KeeperClient


class Running:
    """One keeper and who it belongs to."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.owner = subprocess.Popen(["sleep", "1000"])
        command = [sys.executable, "-I", "-S", process.__file__, str(path), str(self.owner.pid), str(seconds)]
        self.keeper = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.keeper.stdout is not None
        with self.keeper.stdout:
            assert self.keeper.stdout.readline() == b"ready\n"
        self.path, self.client = path, KeeperClient(path)

    def end_owner(self) -> None:
        self.owner.kill()
        self.owner.wait()

    def close(self) -> None:
        self.end_owner()
        self.keeper.kill()
        self.keeper.wait()
