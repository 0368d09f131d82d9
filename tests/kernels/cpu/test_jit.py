"""Compiled code is kept apart by instruction set and by all sources of the kernels, and found again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from numoe.kernels.cpu import jit
from numoe.kernels.cpu.instruction_sets import INSTRUCTION_SETS

ROOT = Path(__file__).parents[3]


def test_the_cache_lies_below_the_users_own_and_apart_for_each_instruction_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = set()
    for one in INSTRUCTION_SETS:
        monkeypatch.setattr(jit, "INSTRUCTION_SET", one)
        folders.add(jit.cache_folder())
    assert len(folders) == len(INSTRUCTION_SETS)
    assert {folder.parent for folder in folders} == {tmp_path / "numoe/kernels"}


@pytest.mark.parametrize("changed", ["records.py", "room/a.py", "room/inner/b.py"])
def test_a_change_in_any_file_of_any_room_gives_another_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: str
) -> None:
    """Numba itself looks at a function's own file only."""
    monkeypatch.setattr(jit, "KERNELS", tmp_path)
    (tmp_path / "room/inner").mkdir(parents=True)
    for name in ("records.py", "room/a.py", "room/inner/b.py"):
        (tmp_path / name).write_text("width = 16\n")
    before = jit.cache_folder()
    assert jit.cache_folder() == before
    (tmp_path / changed).write_text("width = 32\n")
    assert jit.cache_folder() != before


def test_all_kernels_are_among_the_sources() -> None:
    assert jit.KERNELS.name == "kernels"
    assert {path.name for path in jit.KERNELS.iterdir()} >= {"records.py", "cpu", "step"}


def test_a_process_without_a_cache_compiles_into_it_and_another_finds_it_there(tmp_path: Path) -> None:
    program = (
        "import numpy as np; from numoe.kernels.cpu.functions import exp;"
        "assert exp(np.float32(0)) == 1; print(sum(exp.stats.cache_hits.values()))"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    hits = [
        subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, check=True, capture_output=True)
        for _ in range(2)
    ]
    assert [process.stdout.split() for process in hits] == [[b"0"], [b"1"]]
    assert list((tmp_path / "numoe/kernels").rglob("functions.exp*.nbc"))
