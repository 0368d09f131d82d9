"""`numoe topology`: shows the machine as the planner sees it."""

from __future__ import annotations

from pathlib import Path

from numoe.coordinator.commands.options import ROOT, read_machine
from numoe.coordinator.commands.screen.terminal import out
from numoe.coordinator.commands.tables.topology import describe_topology


def topology(*, root: Path = ROOT) -> None:
    """Show the machine as the planner sees it: packages, NUMA nodes, cores, memory.

    Parameters
    ----------
    root
        A folder with a copy of another machine's /sys and /proc, to show that machine instead.
    """
    out().print(describe_topology(read_machine(root)))
