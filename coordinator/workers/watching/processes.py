"""The processes of a group, watched through pidfds: which of them have ended, and ending the rest."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock

import structlog

from numoe.protos.errors import WorkerLost

END_SECONDS = 60.0  # for a killed process to be gone: giving back hundreds of GB takes the kernel a while

_log = structlog.get_logger()


class WatchedProcesses:
    """Processes by their number in the group; a pidfd stays that of its process when the pid is used again.

    May be used from several threads: each descriptor is closed once.
    """

    def __init__(self, pids: Sequence[int], kind: str = "worker") -> None:
        """`kind`: what each of them is, for people. Raises WorkerLost: one has ended already."""
        self.pids = tuple(pids)
        self._lock = Lock()
        self._descriptors: list[int] = []
        for number, pid in enumerate(pids):
            try:
                self._descriptors.append(os.pidfd_open(pid))
            except ProcessLookupError as error:
                self.close()
                raise WorkerLost(f"{kind} {number} (pid {pid}) died as soon as it had started") from error

    def ended(self) -> list[int]:
        """The numbers of those that have ended; returns at once. None of those that are watched no more."""
        with self._lock:
            readable = set(_readable(self._descriptors, 0))
            return [number for number, descriptor in enumerate(self._descriptors) if descriptor in readable]

    def kill(self) -> None:
        """Kill all, and wait until they are gone and their memory with them; then close."""
        descriptors = self._take()
        for descriptor in descriptors:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        for number, descriptor in enumerate(descriptors):
            if not _readable([descriptor], END_SECONDS):
                _log.error("worker_outlives_kill", worker=number, pid=self.pids[number])
            os.close(descriptor)

    def close(self) -> None:
        """Stop watching."""
        for descriptor in self._take():
            os.close(descriptor)

    def _take(self) -> list[int]:
        """The descriptors, which are the caller's from now on."""
        with self._lock:
            descriptors, self._descriptors = self._descriptors, []
            return descriptors


def _readable(descriptors: Sequence[int], seconds: float) -> list[int]:
    """Those of the descriptors that can be read within so many seconds; `select` would refuse those from 1024 on."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(1000 * seconds)]
