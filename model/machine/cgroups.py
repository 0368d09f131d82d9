"""Reads what the cgroups of this process leave it of memory and CPU time."""

from __future__ import annotations

from pathlib import Path

from numoe.model.machine.linux_files import read_number, read_text

UNLIMITED = 1 << 60  # version 1 says "no limit" as a number of this size


def memory_limit(root: Path) -> tuple[int, int] | None:
    """The limit, and the bytes used without page cache, of the cgroup that leaves least; None: there is no limit."""
    found = []
    for folder in _cgroup_folders(root, "memory"):
        names = ("memory.max", "memory.high", "memory.limit_in_bytes")
        limits = [number for name in names if (number := read_number(folder / name)) is not None]
        used = read_number(folder / "memory.current") or read_number(folder / "memory.usage_in_bytes") or 0
        stat = dict(line.split(None, 1) for line in read_text(folder / "memory.stat").splitlines() if " " in line)
        cached = int(stat.get("file", stat.get("total_cache", 0)))
        found += [(limit, max(0, used - cached)) for limit in limits if limit < UNLIMITED]
    return min(found, key=lambda pair: pair[0] - pair[1], default=None)


def cpu_quota(root: Path) -> float | None:
    """How many CPUs' time the cgroups of this process leave it; None: there is no limit."""
    quotas = [quota for folder in _cgroup_folders(root, "cpu") if (quota := _folder_quota(folder)) is not None]
    return min(quotas, default=None)


def _folder_quota(folder: Path) -> float | None:
    """The quota of one cgroup."""
    words = read_text(folder / "cpu.max").split()
    if len(words) == 2 and words[0] != "max":
        return int(words[0]) / int(words[1])
    quota, period = read_number(folder / "cpu.cfs_quota_us"), read_number(folder / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


def _cgroup_folders(root: Path, controller: str) -> list[Path]:
    """Folders of the process's cgroup of a controller and all above, or only the mount if no other is visible."""
    mount = root / "sys/fs/cgroup"
    folders: list[Path] = []
    for line in read_text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base = mount / "unified" if (mount / "unified").is_dir() else mount
        elif controller in controllers.split(","):
            base = mount / (controllers if (mount / controllers).is_dir() else controller)
        else:
            continue
        here = base / path.lstrip("/")
        if here.is_dir():
            folders += [here, *(folder for folder in here.parents if folder.is_relative_to(base))]
        else:  # a container sees its own cgroup as the root
            folders.append(base)
    return folders
