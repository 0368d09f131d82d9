"""What the kernel tells about another process's pages and threads, read by none of the product's code."""

from __future__ import annotations

import ctypes
import os
import re
from collections import Counter
from pathlib import Path

PAGE = 4096
_MIGRATE_PAGES, _MOVE_PAGES = 256, 279  # x86-64
_LIBC = ctypes.CDLL(None, use_errno=True)


def anonymous_bytes(pid: int) -> dict[int, int]:
    """Bytes of the process's own memory by node: all but files, and with it weights, KV cache, heap and stacks."""
    found: Counter[int] = Counter()
    for line in Path(f"/proc/{pid}/numa_maps").read_text().splitlines():
        if "anon=" in line and "file=" not in line:
            for node, pages in re.findall(r" N(\d+)=(\d+)", line):
                found[int(node)] += int(pages) * PAGE
    return dict(found)


def mapped_bytes(pid: int, descriptor: int, first: int, last: int) -> dict[int, int]:
    """Bytes `first` to `last` of a memfd of ours that the process maps too, by node; at -1 what it has not used."""
    inode = str(os.fstat(descriptor).st_ino)
    mappings = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "memfd:" in line]
    [start] = [int(fields[0].partition("-")[0], 16) for fields in mappings if fields[4] == inode]
    count = (last - first) // PAGE
    pages = (ctypes.c_void_p * count)(*(start + first + PAGE * page for page in range(count)))
    status = (ctypes.c_int * count)()
    if _LIBC.syscall(_MOVE_PAGES, pid, ctypes.c_long(count), pages, None, status, 0) != 0:
        raise OSError(ctypes.get_errno(), "move_pages")
    return {node: pages * PAGE for node, pages in Counter(max(-1, node) for node in status).items()}


def thread_cpus(pid: int) -> list[str]:
    """For each thread of the process the CPUs where it may run, as the kernel writes them."""
    listed = []
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        listed += [line.split()[1] for line in status.read_text().splitlines() if line.startswith("Cpus_allowed_list:")]
    return listed


def migrate(pid: int, source: int, target: int) -> None:
    """Move all of a process's pages from one node to another."""
    nodes = [ctypes.c_ulong(1 << node) for node in (source, target)]
    if _LIBC.syscall(_MIGRATE_PAGES, pid, ctypes.c_long(64), *map(ctypes.byref, nodes)) < 0:
        raise OSError(ctypes.get_errno(), "migrate_pages")


class OneNodeOnly:
    """Lets a process have memory of one node only for the length of a block, by a cpuset, as a container would."""

    def __init__(self, pid: int, node: int) -> None:
        assert os.environ.get("NUMA_GUEST"), "the control groups of a machine that others use are not to be changed"
        self._pid, self._node = str(pid), str(node)
        self._root = Path("/sys/fs/cgroup")
        self._group = self._root / "one-node"

    def __enter__(self) -> None:
        (self._root / "cgroup.subtree_control").write_text("+cpuset")
        self._group.mkdir()
        (self._group / "cpuset.mems").write_text(self._node)
        (self._group / "cgroup.procs").write_text(self._pid)

    def __exit__(self, *error: object) -> None:
        (self._root / "cgroup.procs").write_text(self._pid)
        self._group.rmdir()
