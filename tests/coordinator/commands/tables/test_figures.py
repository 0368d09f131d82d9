"""How the tables write figures."""

from __future__ import annotations

import pytest

from numoe.coordinator.commands.tables.figures import human_bytes


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1023 * 1024, "1.00 MiB"),
        (1536, "1.50 KiB"),
        (10 << 20, "10.0 MiB"),
        (250 << 30, "250 GiB"),
    ],
)
def test_bytes_are_said_in_three_digits(count: int, text: str) -> None:
    assert human_bytes(count) == text
