"""Many cores are measured with numpy and numba only: a row for each number of cores, and a picture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy

from bench.scaling.__main__ import powers
from bench.scaling.measuring import Row
from bench.scaling.picture import picture

ROOT = Path(__file__).parents[2]
LIBRARIES = ("numpy", "numba", "llvmlite")


def test_numbers_of_cores_double_up_to_all() -> None:
    assert [powers(most) for most in (1, 2, 20)] == [[1], [1, 2], [1, 2, 4, 8, 16, 20]]


def test_every_number_of_cores_is_measured_with_numpy_and_numba_alone(tmp_path: Path) -> None:
    site, only = Path(numpy.__file__).parents[1], tmp_path / "only"
    only.mkdir()
    for installed in (path for name in LIBRARIES for path in site.glob(f"{name}*")):
        (only / installed.name).symlink_to(installed)
    command = [sys.executable, "-S", "-m", "bench.scaling", "--layers", "1", "--output", str(tmp_path / "found.json")]
    environment = {**os.environ, "PYTHONPATH": f"{only}:{ROOT / '.namespace'}"}
    told = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads((tmp_path / "found.json").read_text())
    cores = found["machine"]["nodes"][0]["cores"]
    rows = [row for row in found["rows"] if row["workers"] == 1]
    assert [row["cores"] for row in rows] == powers(cores)
    for row in rows:
        assert 0 < row["fill"] < 1.5
        assert 0 <= row["decode_waiting"] < 1
        assert row["prompt_gigaops"] > row["prompt_tokens"] / 10
        assert row["claims"] > 0
    assert len(told.splitlines()) == 4 + len(found["rows"])
    ElementTree.parse(tmp_path / "found.svg")


def test_the_picture_has_a_point_for_every_figure_of_every_row() -> None:
    one = Row(1, 1, 30.0, 50.0, 0.5, 200.0, 100.0, 0.0, 0.0, 60.0, 180)
    both = Row(2, 2, 60.0, 90.0, 0.6, 390.0, 190.0, 0.1, 0.05, None, None)
    drawn = ElementTree.fromstring(picture([one, both], "a <machine>"))
    circles = [part for part in drawn.iter() if part.tag.endswith("circle")]
    assert len(circles) == 2 * 6 - 1  # of two workers nothing is simulated
    labels = {part.text for part in drawn.iter() if part.tag.endswith("text")}
    assert {"a <machine>", "1", "2x1"} <= labels
