"""Kernels that came with the package, compiled ahead of time, are found on every CPU that has their instruction set."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from numoe.kernels.cpu.instruction_sets import INSTRUCTION_SETS, runnable

ROOT = Path(__file__).parents[3]
COMPILE = """
import numpy as np
from numoe.kernels.cpu.functions import {name}
from numoe.kernels.cpu.jit import compile_for
compile_for({name}, np.float32(0))
"""
RUN = """
import numpy as np
from numoe.kernels.cpu.functions import exp, log
from numoe.kernels.cpu.jit import sole_compiler
with sole_compiler():
    assert exp(np.float32(0)) == 1
    assert log(1.0) == 0
print(sum(exp.stats.cache_hits.values()), sum(log.stats.cache_hits.values()))
"""
SETS = [one.name for one in INSTRUCTION_SETS if one.first_cpu is not None]
BEST = next((one.name for one in runnable() if one.first_cpu is not None), None)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of what kernels need, so that this checkout's are left alone; what is compiled ahead lies in it."""
    for name in ("kernels", "protos"):
        ignored = shutil.ignore_patterns("__pycache__", "ahead")
        shutil.copytree(ROOT / name, tmp_path / "package/numoe" / name, ignore=ignored)
    return tmp_path / "package"


def run(package: Path, program: str, **environment: str) -> str:
    """What it writes, run with the package and an empty cache beside it."""
    paths = {"PYTHONPATH": str(package), "XDG_CACHE_HOME": str(package.parent / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **paths, **environment},
        cwd=package,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def compiled(folder: Path, name: str) -> list[Path]:
    return list(folder.rglob(f"functions.{name}-*.nbc"))


@pytest.mark.skipif(BEST is None, reason="this CPU has none of the instruction sets that are compiled ahead of time")
def test_the_cache_takes_them_and_the_rest_is_compiled_beside_them(package: Path) -> None:
    assert BEST is not None
    run(package, COMPILE.format(name="exp"), NUMOE_AHEAD="1", NUMOE_ISA=BEST)
    assert not (package.parent / "cache").exists()
    assert [run(package, RUN, NUMOE_ISA=BEST) for _ in range(2)] == ["1 0\n", "1 1\n"]
    [came_with] = (package / "numoe/kernels/ahead").iterdir()
    [taken] = (package.parent / "cache/numoe/kernels").iterdir()
    assert taken.name == came_with.name
    assert compiled(taken, "exp")[0].read_bytes() == compiled(came_with, "exp")[0].read_bytes()
    assert compiled(came_with, "log") == []


@pytest.mark.parametrize("name", SETS)
def test_they_are_compiled_for_cpus_that_this_one_is_not(package: Path, name: str) -> None:
    run(package, COMPILE.format(name="exp"), NUMOE_AHEAD="1", NUMOE_ISA=name)
    [came_with] = (package / "numoe/kernels/ahead").iterdir()
    assert compiled(came_with, "exp")


def test_a_package_without_any_compiles_for_this_very_cpu(package: Path) -> None:
    assert [run(package, RUN) for _ in range(2)] == ["0 0\n", "1 1\n"]
