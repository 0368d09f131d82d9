"""What `numoe doctor` puts on the screen."""

from __future__ import annotations

from numoe.coordinator.commands.tables.doctor import describe_checkup
from numoe.coordinator.machine.checkup import Checkup
from numoe.model.doctor.finding import Finding
from numoe.model.machine.bandwidth import Bandwidth, Read
from numoe.model.machine.processor import Processor
from numoe.model.machine.topology import Topology
from tests.coordinator.commands.tables.screen import shown

MATRIX = Bandwidth(
    "", "2026-01-02 03:04", ((0, 20), (1, 20)), (Read(0, 0, 105.4e9), Read(0, 1, 51.04e9), Read(1, 1, 99.44e9))
)
WARNING = Finding("warning", "huge pages", "off", "speed", "switch [them] on")


def checkup(*findings: Finding, bandwidth: Bandwidth | None = None) -> Checkup:
    return Checkup(findings, bandwidth, Topology((), processor=Processor("EPYC\x1b[2J")))


def test_the_worst_comes_last_with_its_cost_and_what_mends_it() -> None:
    note, fine = Finding("note", "swap", "some", "", "less"), Finding("ok", "nodes", "two")
    text = shown(describe_checkup(checkup(WARNING, note, fine)), 60)
    lines = [line.strip() for line in text.splitlines()]
    assert lines[1:] == [
        "ok       nodes: two",
        "note     swap: some",
        "try: less",
        "warning  huge pages: off",
        "cost: speed",
        "mend: switch [them] on",
        "1 warning, 1 note.",
    ]
    assert "\x1b" not in text


def test_problems_make_it_fail() -> None:
    problem = Finding("problem", "room", "none", "all")
    assert checkup(WARNING, problem, problem).failed
    assert not checkup(WARNING).failed
    assert "2 problems, 1 warning." in shown(describe_checkup(checkup(WARNING, problem, problem)))


def test_nothing_to_mend_is_said() -> None:
    assert "Nothing to mend." in shown(describe_checkup(checkup(Finding("ok", "nodes", "two"))))


def test_the_matrix_has_cores_in_rows_and_memory_in_columns() -> None:
    text = shown(describe_checkup(checkup(bandwidth=MATRIX)), 80)
    rows = [line.replace("│", " ").split() for line in text.splitlines() if line.startswith("│")]
    assert rows == [["0", "105", "51.0"], ["1", "-", "99.4"]]
    assert "2026-01-02 03:04" in text


def test_long_remedies_are_folded() -> None:
    long = Finding("warning", "quota", "x", "y", "word " * 40)
    assert max(len(line) for line in shown(describe_checkup(checkup(long)), 80).splitlines()) <= 80
