"""What `numoe doctor` shows: the findings from good to bad, and the measured bandwidth."""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from numoe.coordinator.commands.tables.figures import human_count, ruled_table
from numoe.coordinator.machine.checkup import Checkup
from numoe.model.doctor.finding import LEVELS, Finding
from numoe.model.machine.bandwidth import Bandwidth
from numoe.protos.foreign_text import harmless

STYLES = {"ok": "green", "note": "cyan", "warning": "bold yellow", "problem": "bold red"}


def describe_checkup(checkup: Checkup) -> RenderableType:
    """Show the findings from good to bad: the last ones are read first."""
    parts: list[RenderableType] = []
    if checkup.topology.processor.name:
        parts.append(Text(harmless(checkup.topology.processor.name)))
    if checkup.bandwidth is not None and checkup.bandwidth.reads:
        parts.append(_matrix(checkup.bandwidth))
    parts.append(_findings(sorted(checkup.findings, key=lambda finding: LEVELS.index(finding.level))))
    parts.append(Text(_summary(checkup.findings)))
    return Group(*parts)


def _matrix(bandwidth: Bandwidth) -> Table:
    """GB/s of each node's cores (rows) from each node's memory (columns)."""
    memories = sorted({read.memory_of for read in bandwidth.reads})
    title = f"GB/s read by all cores of a node, {bandwidth.measured_at}"
    table = ruled_table(title, "cores \\ memory", *(str(memory) for memory in memories))
    for node in sorted({read.cores_of for read in bandwidth.reads}):
        rates = [bandwidth.rate(node, memory) for memory in memories]
        cells = ("-" if rate is None else f"{rate / 1e9:.{0 if rate >= 99.5e9 else 1}f}" for rate in rates)
        table.add_row(str(node), *cells)
    return table


def _findings(findings: list[Finding]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    for finding in findings:
        table.add_row(Text(finding.level, style=STYLES[finding.level]), Text(f"{finding.subject}: {finding.found}"))
        if finding.cost:
            table.add_row("", Text(f"cost: {finding.cost}"))
        if finding.remedy:
            verb = "try" if finding.level == "note" else "mend"
            table.add_row("", Text(f"{verb}: {finding.remedy}", style="bold"))
    return table


def _summary(findings: tuple[Finding, ...]) -> str:
    counts = Counter(finding.level for finding in findings)
    bad = [human_count(counts[level], level) for level in LEVELS[:0:-1] if counts[level]]
    return ", ".join(bad) + "." if bad else "Nothing to mend."
