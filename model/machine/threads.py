"""The CPUs where the kernel lets the threads of a process run, and the one where a process runs now."""

from __future__ import annotations

from pathlib import Path

from numoe.model.machine.id_lists import parse_id_list
from numoe.model.machine.linux_files import read_text

_PROCESSOR = 36  # the field of /proc/PID/stat, counted from the one after the name


def thread_cpus(process: int | str = "self") -> list[set[int]]:
    """The CPUs of each thread of a process, by its pid; none where there is no such process."""
    masks = []
    for status in Path(f"/proc/{process}/task").glob("*/status"):
        try:
            lines = status.read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        [listed] = [line.split()[1] for line in lines if line.startswith("Cpus_allowed_list:")]
        masks.append(set(parse_id_list(listed)))
    return masks


def current_cpu(root: Path = Path("/")) -> int | None:
    """The CPU on which this process runs; None where the copy below `root` does not say."""
    fields = read_text(root / "proc/self/stat").rpartition(")")[2].split()
    return int(fields[_PROCESSOR]) if len(fields) > _PROCESSOR else None
