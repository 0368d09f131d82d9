"""The machine as the command shows it."""

from __future__ import annotations

from pathlib import Path

from tests.coordinator.commands.numoe_process import numoe


def test_topology_shows_a_node() -> None:
    done = numoe("topology")
    assert done.returncode == 0, done.stderr
    assert "node 0" in done.stdout


def test_topology_shows_the_copy_of_another_machine(recorded_machines: Path) -> None:
    done = numoe("topology", "--root", str(recorded_machines / "two-sockets"))
    assert done.returncode == 0, done.stderr
    assert "package 1" in done.stdout
