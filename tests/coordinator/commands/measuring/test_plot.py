"""The picture of a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from numoe.coordinator.commands.measuring import plot
from numoe.coordinator.measuring.steps import Measurement
from numoe.coordinator.measuring.sweep import Sweep, SweepRow
from numoe.protos.errors import SetupError

ROWS = [SweepRow(depth, Measurement(1.0, 1, 0.0), Measurement(2.0, 1, 0.0)) for depth in (0, 8)]


def test_a_sweep_is_drawn_whatever_the_models_name(tmp_path: Path) -> None:
    path = tmp_path / "sweep.png"
    plot.refuse_without_matplotlib(path)
    plot.draw_sweep(path, "a $name_{ of a model", Sweep(16, 8, 2), ROWS)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000


def test_a_missing_matplotlib_is_said_with_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"pip install 'numoe\[plot\]'"):
        plot.refuse_without_matplotlib(tmp_path / "sweep.png")


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"sweep\.txt, expected a name that ends with \.png"):
        plot.refuse_without_matplotlib(tmp_path / "sweep.txt")


def test_a_picture_that_cannot_be_written_is_a_line() -> None:
    with pytest.raises(SetupError, match=r"--plot /proc/none\.png cannot be written"):
        plot.draw_sweep(Path("/proc/none.png"), "", Sweep(16, 8, 2), ROWS)
