"""Compiled code is kept apart by instruction set and by all sources of the kernels, and found again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from numoe.kernels.cpu import jit
from numoe.kernels.cpu.compiled_files import seal
from numoe.kernels.cpu.instruction_sets import INSTRUCTION_SETS
from numoe.worker.running.warm import _once

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


def compiled_hits(cache: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A process that runs a kernel and writes how often it found it in the cache."""
    program = (
        "import numpy as np; from numoe.kernels.cpu.functions import exp;"
        "assert exp(np.float32(0)) == 1; print(sum(exp.stats.cache_hits.values()))"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), **variables}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, check=False, capture_output=True, text=True
    )


def test_another_copy_of_the_same_sources_compiles_nothing_anew(tmp_path: Path) -> None:
    assert compiled_hits(tmp_path).stdout == "0\n"
    for name in ("kernels", "protos"):
        shutil.copytree(ROOT / name, tmp_path / "copy/numoe" / name, copy_function=shutil.copyfile)
    assert compiled_hits(tmp_path, PYTHONPATH=str(tmp_path / "copy")).stdout == "1\n"
    with (tmp_path / "copy/numoe/kernels/records.py").open("a") as changed:
        changed.write("# other sources\n")
    assert compiled_hits(tmp_path, PYTHONPATH=str(tmp_path / "copy")).stdout == "0\n"


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_damaged_file_is_compiled_again(tmp_path: Path, suffix: str) -> None:
    """Emptied, as after a loss of power, or with one bit turned."""
    assert compiled_hits(tmp_path).stdout == "0\n"
    [file] = (tmp_path / "numoe/kernels").rglob(f"functions.exp-*{suffix}")
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(damaged)
        again = compiled_hits(tmp_path)
        assert again.stdout == "0\n", again.stderr
    assert compiled_hits(tmp_path).stdout == "1\n"


def test_a_cache_in_which_others_may_write_is_not_used(tmp_path: Path) -> None:
    """What lies there is run: an index is a pickle, and the code is code."""
    assert compiled_hits(tmp_path).returncode == 0
    (tmp_path / "numoe/kernels").chmod(0o777)
    refused = compiled_hits(tmp_path)
    assert refused.returncode == 1
    last = refused.stderr.splitlines()[-1]
    assert last.startswith(f"numoe.protos.errors.SetupError: {tmp_path}/numoe/kernels is not this user's alone")


def test_a_damaged_file_counts_as_not_compiled(tmp_path: Path) -> None:
    calls: list[str] = []

    def compile_() -> None:
        calls.append("compiled")
        (tmp_path / "a.nbc").write_bytes(seal(b"code"))

    for _ in range(2):
        _once(tmp_path, "step", compile_)
    assert len(calls) == 1
    for damage in ((tmp_path / "a.nbc").unlink, lambda: (tmp_path / "a.nbc").write_bytes(b"")):
        damage()
        _once(tmp_path, "step", compile_)
    assert len(calls) == 3


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
