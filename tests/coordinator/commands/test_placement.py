"""Where a served model lies, as the command shows it."""

from __future__ import annotations

from tests.coordinator.commands.numoe_process import numoe


def test_placement_shows_where_a_served_model_lies(address: str) -> None:
    done = numoe("placement", "--address", address)
    assert done.returncode == 0, done.stderr
    for part in ("2 workers", "4242", "cpus+memory", "8 of 9", "node 0: 200 B, node 1: 100 B", "vocabulary"):
        assert part in done.stdout
