"""Writes figures and counts for people."""

from __future__ import annotations

import time

from rich.table import Table


def human_bytes(count: int) -> str:
    """A byte count in the largest binary unit that leaves at least one, to three digits: "1.46 GiB"."""
    value, unit = float(count), 0
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    while value >= 999.5 and unit < len(units) - 1:  # 999.5 would round to four digits
        value, unit = value / 1024, unit + 1
    decimals = 0 if unit == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f} {units[unit]}"


def human_time(seconds: float) -> str:
    """A time in the unit that suits it: "4.1 ms", "12.0 s", "3:05:09"."""
    if seconds < 1:
        return f"{1e3 * seconds:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{time.strftime('%M:%S', time.gmtime(rest))}"


def human_count(number: int, noun: str) -> str:
    """So many of what `noun` names: "1 worker", "2 workers"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def ruled_table(title: str, *headings: str, named_rows: bool = False) -> Table:
    """Columns of figures; if rows are named, the first column is for their names, which are never broken."""
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        if named_rows and not number:
            table.add_column(heading, no_wrap=True)
        else:
            table.add_column(heading, justify="right", overflow="fold")
    return table
