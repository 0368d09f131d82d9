"""Compiled code is kept apart by instruction set, and an impossible instruction set is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite import binding

from numoe.kernels import jit

ROOT = Path(__file__).parents[2]


def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMOE_ISA", "mmx")
    with pytest.raises(ValueError, match=r"NUMOE_ISA='mmx' is unknown; this version has avx512vnni, portable"):
        jit.detect_instruction_set()


def test_the_portable_instruction_set_runs_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMOE_ISA", "portable")
    assert jit.detect_instruction_set() == "portable"


def test_an_instruction_set_that_the_cpu_lacks_is_refused_or_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "get_host_cpu_features", lambda: {"avx512f": True, "avx512vnni": False})
    monkeypatch.delenv("NUMOE_ISA", raising=False)
    assert jit.detect_instruction_set() == "portable"
    monkeypatch.setenv("NUMOE_ISA", "avx512vnni")
    with pytest.raises(ValueError, match="which this CPU lacks; unset it or use portable"):
        jit.detect_instruction_set()


def test_the_cache_lies_below_the_users_own_and_apart_for_each_instruction_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = set()
    for name in jit.INSTRUCTION_SETS:
        monkeypatch.setattr(jit, "INSTRUCTION_SET", name)
        folders.add(jit.cache_folder())
    assert len(folders) == len(jit.INSTRUCTION_SETS)
    assert {folder.parent for folder in folders} == {tmp_path / "numoe/kernels"}


def test_a_process_without_a_cache_compiles_into_it_and_another_finds_it_there(tmp_path: Path) -> None:
    program = (
        "import numpy as np; from numoe.kernels.functions import exp;"
        "assert exp(np.float32(0)) == 1; print(sum(exp.stats.cache_hits.values()))"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    hits = [
        subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, check=True, capture_output=True)
        for _ in range(2)
    ]
    assert [process.stdout.split() for process in hits] == [[b"0"], [b"1"]]
    assert list((tmp_path / "numoe/kernels").rglob("functions.exp*.nbc"))
