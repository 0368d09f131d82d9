"""The CPUs where the kernel lets the threads of a process run."""

from __future__ import annotations

from pathlib import Path

from numoe.model.machine.id_lists import parse_id_list


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
