"""What processors count of threads: instructions, cycles, loads from own and other nodes; and memory traffic.

Threads are counted by perf_event_open(2), only what they do outside of the kernel; a cache's traffic by resctrl, where
it is mounted. Virtual machines seldom have either, and containers often forbid the first.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from numoe.model.machine.memory_policy import system_call

_PERF_EVENT_OPEN = 298  # x86-64
_ATTRIBUTE_BYTES = 128
_TIMES = 1 | 2  # read how long it was wanted and how long it was counted, too
_NO_KERNEL = 1 << 5 | 1 << 6  # nor a hypervisor
_CLOSE_ON_EXEC = 8
Event = tuple[int, int]  # type and config of perf_event_attr

INSTRUCTIONS, CYCLES = "instructions", "cycles"
LOADS, REMOTE_LOADS = "loads", "remote loads"
EVENTS: Mapping[str, Event] = {
    CYCLES: (0, 0),
    INSTRUCTIONS: (0, 1),
    LOADS: (3, 6),  # PERF_COUNT_HW_CACHE_NODE, reads: accesses
    REMOTE_LOADS: (3, 6 | 1 << 16),  # misses: other nodes'
}
PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
RESCTRL = Path("/sys/fs/resctrl")


class ThreadCounters:
    """Counts what some threads do from now on, until `close`."""

    def __init__(self, threads: Sequence[int], events: Mapping[str, Event] = EVENTS) -> None:
        """`threads`: the kernel's ids. What cannot be counted of one of them is counted of none, see `refused`."""
        self.refused: dict[str, OSError] = {}  # by event
        self._open: dict[str, list[int]] = {}
        for name, event in events.items():
            descriptors: list[int] = []
            try:
                for thread in threads:
                    descriptors.append(_open_counter(event, thread))
            except OSError as error:
                self.refused[name] = error
                for descriptor in descriptors:
                    os.close(descriptor)
            else:
                self._open[name] = descriptors

    def read(self) -> dict[str, int]:
        """Counts so far of all threads together, by event; of a counter that had to share, extrapolated."""
        return {name: sum(map(_read_counter, descriptors)) for name, descriptors in self._open.items()}

    def close(self) -> None:
        """Count no more."""
        for descriptors in self._open.values():
            for descriptor in descriptors:
                os.close(descriptor)
        self._open.clear()

    @property
    def remark(self) -> str:
        """Why there is no number of instructions per cycle, a line for people; empty: there is one."""
        error = self.refused.get(CYCLES) or self.refused.get(INSTRUCTIONS)
        return "" if error is None else f"no instructions per cycle: {why_refused(error)}"


def _open_counter(event: Event, thread: int) -> int:
    attribute = ctypes.create_string_buffer(_ATTRIBUTE_BYTES)
    struct.pack_into("IIQQQQQ", attribute, 0, event[0], _ATTRIBUTE_BYTES, event[1], 0, 0, _TIMES, _NO_KERNEL)
    return system_call(_PERF_EVENT_OPEN, ctypes.byref(attribute), thread, -1, -1, _CLOSE_ON_EXEC)


def _read_counter(descriptor: int) -> int:
    value, wanted, counted = struct.unpack("QQQ", os.read(descriptor, 24))
    return int(value * wanted // counted) if counted else 0


def why_refused(error: OSError, paranoid: Path = PARANOID) -> str:
    """Say why the kernel did not open a counter, and what mends it where something does."""
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
        return "this processor, or this virtual machine, has no such counter"
    if error.errno in (errno.EACCES, errno.EPERM):
        with suppress(OSError, ValueError):
            level = int(paranoid.read_text())
            if level > 1:
                return f"kernel.perf_event_paranoid is {level}; sysctl -w kernel.perf_event_paranoid=1 lets numoe count"
        return "perf_event_open is forbidden, as containers' seccomp profiles do; CAP_PERFMON lets numoe count"
    return f"perf_event_open answers {os.strerror(error.errno or 0)}"


def read_traffic(folder: Path = RESCTRL) -> dict[str, tuple[int, int]]:
    """Bytes so far by last-level cache: of its own node, and all; empty where resctrl does not count them."""
    found = {}
    for domain in sorted((folder / "mon_data").glob("mon_L3_*")):
        with suppress(OSError, ValueError):
            local, total = (int((domain / f"mbm_{kind}_bytes").read_text()) for kind in ("local", "total"))
            found[domain.name] = (local, total)
    return found


def no_traffic_remark(folder: Path = RESCTRL) -> str:
    """Why there is no local and remote traffic, a line for people; empty: there is."""
    if read_traffic(folder):
        return ""
    if (folder / "info").is_dir():
        return "no local and remote traffic: this processor's resctrl does not count it"
    return f"no local and remote traffic: resctrl is not mounted at {folder} (mount -t resctrl resctrl {folder})"
