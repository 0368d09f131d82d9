"""A real `numoe serve` of a tiny model, what belongs to it on this machine, and what of that is left after its end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from numoe.coordinator.cluster.ray_node import SESSIONS
from numoe.keeper import process as keeper
from tests.log_lines import read_log

NUMOE = str(Path(sys.executable).with_name("numoe"))
PATIENCE_SECONDS = 120.0  # for anything to start, restart or end on a loaded machine
_READY = re.compile(r"READY grpc=(?P<address>127\.0\.0\.1:\d+) .*?( ops=http://(?P<http>127\.0\.0\.1:\d+)/ops/)?\n")
_ARENA = "/memfd:numoe-arena"
_FAULTY = re.compile(r"Traceback|incident|internal error|restart")  # in a log of which nothing was lost
MOST_FAULTY = 20  # lines that are told


@dataclass(frozen=True, slots=True)
class Belongings:
    """What a service holds of the machine at one moment."""

    session: re.Pattern[str]  # in the paths of its files in Ray's folder
    processes: tuple[psutil.Process, ...]
    folder: Path  # its own there
    arenas: frozenset[int]  # inodes
    shared_memory: frozenset[str]  # what /dev/shm held before it started
    port: int
    socket: Path | None  # of its keeper; None: it adopted one

    def left(self) -> list[str]:
        """What is still there, described; empty when all is gone."""
        found = [f"process {process}" for process in self.processes if lives(process)]
        for process in psutil.process_iter():
            files = open_files(process.pid)
            found += [f"{process} holds {path}" for path in files.values() if self.session.search(path)]
            found += [f"{process} holds the arena" for inode in files if inode in self.arenas]
        found += [f"/dev/shm/{name}" for name in set(os.listdir("/dev/shm")) - self.shared_memory]
        found += [f"{self.socket}"] if self.socket and self.socket.exists() else []
        try:
            socket.create_server(("127.0.0.1", self.port)).close()
        except OSError:
            found.append(f"port {self.port}")
        return found

    def assert_gone(self) -> None:
        wait_until(lambda: not self.left(), self.left)


class ServeProcess:
    """One running service; the test that ends it on purpose says so with `wait`."""

    def __init__(
        self, log: Path, *arguments: str, program: Sequence[str] = (NUMOE,), folder: Path | None = None
    ) -> None:
        """Run `program` in `folder`; None: the current one.

        It keeps weights wherever it runs, and has no spare processes, unless --standby asks for them.
        """
        self._shared_memory = frozenset(os.listdir("/dev/shm"))
        self._log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [*program, "serve", *arguments],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=folder,
                env=os.environ | {"NUMOE_KEEPER": "on", "NUMOE_STANDBY": str("--standby" in arguments).lower()},
            )
        assert self.process.stdout is not None
        ready = _READY.fullmatch(self.process.stdout.readline())
        assert ready, self.wait()
        self.address, self.http = ready["address"], ready["http"]

    def belongings(self) -> Belongings:
        """As of now."""
        pid = self.process.pid
        arenas = frozenset(inode for inode, path in open_files(pid).items() if path.startswith(_ARENA))
        assert len(arenas) == 1, arenas
        return Belongings(
            session=re.compile(rf"/session_[^/]*_{pid}/"),
            folder=_session_folder(pid),
            processes=tuple(psutil.Process(pid).children(recursive=True)),
            arenas=arenas,
            shared_memory=self._shared_memory,
            port=int(self.address.rpartition(":")[2]),
            socket=Path(self._keepers()[0].cmdline()[4]) if self._keepers() else None,
        )

    def keeper(self) -> psutil.Process:
        """The process that keeps the weights, which it has started."""
        [found] = self._keepers()
        return found

    def _keepers(self) -> list[psutil.Process]:
        return [one for one in psutil.Process(self.process.pid).children() if keeper.__file__ in one.cmdline()]

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text()

    def wait(self) -> tuple[int, str]:
        """Exit code and log, once it has ended."""
        assert self.process.stdout is not None
        code = self.process.wait(PATIENCE_SECONDS)
        self.process.stdout.close()
        return code, self._log.read_text()


@contextmanager
def serving(log: Path, *arguments: str, **how: Any) -> Iterator[ServeProcess]:
    """A service for the length of a block; nothing of it may be left afterwards, however it ended."""
    server = ServeProcess(log, *arguments, **how)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            belongings = server.belongings()
            server.process.send_signal(signal.SIGTERM)
            code, text = server.wait()
            assert code == 0, text
            belongings.assert_gone()
            read_log(text)  # nothing stands in it that docs/log.md does not list


def end_well(server: ServeProcess) -> list[str]:
    """Ends a service of which nothing was lost, and all that belongs to it; returns what should not have been."""
    belongings = server.belongings()
    server.process.send_signal(signal.SIGTERM)
    code, text = server.wait()
    belongings.assert_gone()
    faulty = [line for line in text.splitlines() if _FAULTY.search(line)][:MOST_FAULTY]
    return [f"it ended with {code}"] * (code != 0) + faulty


def wait_until(condition: Callable[[], bool], describe: Callable[[], object] = lambda: "not in time") -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, describe()
        time.sleep(0.02)


def open_files(pid: int) -> dict[int, str]:
    """The open files of a process by inode, mapped memory of the arena included; none if it may not be looked at."""
    found: dict[int, str] = {}
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found[entry.stat().st_ino] = os.readlink(entry)
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if _ARENA in line:
                found[int(line.split()[4])] = _ARENA
    return found


def _session_folder(pid: int) -> Path:
    """Ray's, of the service `pid`: the newest, as a service before may have had the same number."""
    return max(SESSIONS.glob(f"session_*_{pid}"), key=lambda path: path.stat().st_ctime)


def lives(process: psutil.Process) -> bool:
    """Whether it runs still; nobody may have asked yet what became of it."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
