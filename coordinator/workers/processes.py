"""The processes of a group, watched through pidfds: which of them have ended, and ending the rest."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Sequence
from contextlib import suppress

import structlog

END_SECONDS = 60.0  # for a killed process to be gone: giving back hundreds of GB takes the kernel a while

_log = structlog.get_logger()


class WatchedProcesses:
    """Processes by their number in the group; a pidfd stays that of its process when the pid is used again."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.pids = tuple(pids)
        self._descriptors = [os.pidfd_open(pid) for pid in pids]

    def ended(self) -> list[int]:
        """The numbers of those that have ended; returns at once."""
        readable, _, _ = select.select(self._descriptors, [], [], 0)
        return [number for number, descriptor in enumerate(self._descriptors) if descriptor in readable]

    def kill(self) -> None:
        """Kill all, and wait until they are gone and their memory with them; then close."""
        for descriptor in self._descriptors:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        for number, descriptor in enumerate(self._descriptors):
            if not select.select([descriptor], [], [], END_SECONDS)[0]:
                _log.error("worker_outlives_kill", worker=number, pid=self.pids[number])
        self.close()

    def close(self) -> None:
        """Stop watching."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
