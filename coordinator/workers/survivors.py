"""Ends what outlives the coordinator: python -m numoe.coordinator.workers.survivors PID

Most of Ray's processes are killed with the one that started them, and workers watch the coordinator themselves. But two
agents of Ray, orphaned by a kill -9, live on for a minute: they try to tell so to a daemon that is dead as well. So a
small process waits for the coordinator's end, however that comes, and kills what still writes into its Ray session.

*Rejected*: Ray's own time limits (30 s with the shortest); a mark in the environment (two of three times gone, as Ray
writes process titles over it).
"""

from __future__ import annotations

import os
import re
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from numoe.coordinator.programs import python_command

ROUNDS, ROUND_SECONDS = 100, 0.05  # a process may be starting another while it is looked for


def start_watching() -> None:
    """Start the watching process; it ends right after this one."""
    watching = subprocess.Popen(
        python_command(__name__, str(os.getpid())),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the coordinator
    )
    watching.returncode = 0  # nobody will wait for it


def kill_session(coordinator: int) -> bool:
    """Kill every other process that writes into a Ray session that `coordinator` began; whether there was one.

    Who only reads there, as `tail -f` of a log does, is somebody else.
    """
    session, found = re.compile(rf"/session_[^/]*_{coordinator}/"), False
    for name in filter(str.isdecimal, os.listdir("/proc")):
        if int(name) == coordinator:
            continue
        with suppress(OSError), _held(int(name)) as descriptor:  # it ended meanwhile, or is another user's
            if any(session.search(path) for path in _written_files(name)):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                found = True
    return found


def _written_files(pid: str) -> Iterator[str]:
    """The paths of the files that a process may write to."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if entry.lstat().st_mode & stat.S_IWUSR:  # of the link: what the file was opened for
                yield os.readlink(entry)


@contextmanager
def _held(pid: int) -> Iterator[int]:
    """A pidfd: what was read of the process since is of the one that is killed."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def main() -> None:
    """Wait for the process PID, then kill until nothing of its session is left."""
    coordinator = int(sys.argv[1])
    with suppress(ProcessLookupError), _held(coordinator) as descriptor:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        ended.poll()
    for _ in range(ROUNDS):
        if not kill_session(coordinator):
            return
        time.sleep(ROUND_SECONDS)


if __name__ == "__main__":
    main()
