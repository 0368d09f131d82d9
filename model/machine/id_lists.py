"""Lists of CPUs and nodes in the kernel's form, such as 0-2,8."""

from __future__ import annotations

from collections.abc import Iterable

MOST_IDS = 1 << 17  # sixteen times as many as Linux can have of CPUs


def parse_id_list(text: str, below: int = MOST_IDS) -> tuple[int, ...]:
    """Read the kernel's list form: "0-2,8" gives (0, 1, 2, 8), an empty text nothing.

    Raises:
        ValueError: the text has another form, or an id is not smaller than `below`.
    """
    ids: set[int] = set()
    for part in text.strip().split(","):
        if part:
            start, dash, end = part.partition("-")
            first, last = int(start), int(end if dash else start)
            if not first <= last < below:
                raise ValueError(f"found {part:.40}, expected numbers below {below}, the smaller one first")
            ids.update(range(first, last + 1))
    return tuple(sorted(ids))


def format_id_list(ids: Iterable[int]) -> str:
    """Write the list that parse_id_list reads: (0, 1, 2, 8) gives "0-2,8"; what is repeated stands once."""
    runs: list[list[int]] = []
    for number in sorted(set(ids)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
