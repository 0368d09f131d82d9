"""Ends what outlives the coordinator: python -m numoe.coordinator.workers.watching.survivors PID SID

Most of Ray's processes are killed with the one that started them, and workers watch the coordinator themselves. But two
agents of Ray, orphaned by a kill -9, live on for a minute: they try to tell so to a daemon that is dead as well. So a
small process waits for the coordinator's end, however that comes, and kills what still writes into its Ray session and
is of the coordinator's session of processes (setsid), which all that it started inherits: who rotates or follows logs
there is of another.

*Rejected*: Ray's own time limits (30 s with the shortest); a mark in the environment (two of three times gone, as Ray
writes process titles over it); becoming the reaper of orphans, which only those still have that the coordinator ended.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from numoe.coordinator.programs import python_command

LOCK = "numoe.lock"  # in a session's folder; the kernel lets go of it when the coordinator ends, however it does
KEPT_SESSIONS = 10  # the newest of those that nobody holds: their logs may explain why a service ended
MOST_REMOVED = 100  # at one start; some 200 KB each
LOG_LINES = 5  # of the node's log, told when it did not start
ROUNDS, ROUND_SECONDS = 100, 0.05  # a process may be starting another while it is looked for


def start_watching() -> None:
    """Start the watching process; it ends right after this one."""
    watching = subprocess.Popen(
        python_command(__name__, str(os.getpid()), str(os.getsid(0))),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the coordinator
    )
    watching.returncode = 0  # nobody will wait for it


def kill_session(coordinator: int, processes: int) -> bool:
    """Kill every other process that writes into a Ray session that `coordinator` began; whether there was one.

    Who only reads there, as `tail -f` of a log does, is somebody else, and so is who is of another session of
    processes than `processes`, as whatever rotates logs is.
    """
    session, found = re.compile(rf"/session_[^/]*_{coordinator}/"), False
    for name in filter(str.isdecimal, os.listdir("/proc")):
        if int(name) == coordinator:
            continue
        with suppress(OSError), _held(int(name)) as descriptor:  # it ended meanwhile, or is another user's
            if os.getsid(int(name)) == processes and any(session.search(path) for path in _written_files(name)):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                found = True
    return found


def _written_files(pid: str) -> Iterator[str]:
    """The paths of the files that a process may write to."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if entry.lstat().st_mode & stat.S_IWUSR:  # of the link: what the file was opened for
                yield os.readlink(entry)


def hold_session(folder: Path) -> int:
    """Mark a session as that of a living service; returns the descriptor that holds the mark."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def remove_old_sessions(sessions: Path) -> None:
    """Remove the folders of sessions that nobody holds any more, but for the newest KEPT_SESSIONS."""
    with suppress(OSError):
        folders = sorted((one for one in sessions.glob("session_*_[0-9]*") if not one.is_symlink()), reverse=True)
        abandoned = [folder for folder in folders if _abandoned(folder)]  # named by the time of their start
        for folder in abandoned[: KEPT_SESSIONS - 1 : -1][:MOST_REMOVED]:
            shutil.rmtree(folder, ignore_errors=True)


def _abandoned(folder: Path) -> bool:
    """Whether the service of a session has ended; where it could not mark its session, whether its pid is free."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return not Path(f"/proc/{folder.name.rpartition('_')[2]}").exists()
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def end_of_log(sessions: Path, began: float) -> str:
    """What the node that was started after `began` (seconds since 1970) said last."""
    found = [path for path in sessions.glob(f"session_*_{os.getpid()}") if path.stat().st_mtime >= began - 1.0]
    if not found:
        return ""
    log = max(found, key=lambda path: path.stat().st_mtime) / "logs/raylet.out"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    wrong = [line for line in lines if re.search(r" [WEFC] \d+ \d+\] ", line)] or lines
    return f"The end of {log}: " + " | ".join(wrong[-LOG_LINES:]) if wrong else f"{log} is empty."


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
    coordinator, processes = map(int, sys.argv[1:])
    with suppress(ProcessLookupError), _held(coordinator) as descriptor:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        ended.poll()
    for _ in range(ROUNDS):
        if not kill_session(coordinator, processes):
            return
        time.sleep(ROUND_SECONDS)


if __name__ == "__main__":
    main()
