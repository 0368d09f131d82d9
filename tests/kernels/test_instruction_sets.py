"""Every instruction set computes the same bits, on this CPU's best instructions and on fewer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from llvmlite import binding

from numoe.kernels.jit import INSTRUCTION_SET

ROOT = Path(__file__).parents[2]
FEATURES = binding.get_host_cpu_features()


@cache
def hashes(instruction_set: str, cpu: str = "") -> dict[str, str]:
    """What the kernels of a process with this instruction set compute; `cpu` limits LLVM to a model's instructions."""
    environment = {**os.environ, "NUMOE_ISA": instruction_set}
    if cpu:
        environment |= {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": ""}
    process = subprocess.run(
        [sys.executable, "-m", "tests.kernels.output_hashes"], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    found: dict[str, str] = json.loads(process.stdout)
    assert found.pop("instruction set") == instruction_set
    return found


def test_the_portable_kernels_compute_something() -> None:
    found = hashes("portable")
    assert len(found) == 40
    assert len(set(found.values())) == len(found)


@pytest.mark.skipif(not FEATURES.get("avx512vnni"), reason="this CPU has no AVX-512 VNNI to compare portable code with")
def test_portable_kernels_and_avx512_vnni_give_the_same_bits() -> None:
    assert INSTRUCTION_SET in ("avx512vnni", "portable")
    assert hashes("avx512vnni") == hashes("portable")


@pytest.mark.skipif(not FEATURES.get("avx2"), reason="this CPU has no AVX2 to compile for")
def test_kernels_compiled_for_a_cpu_without_avx512_give_the_same_bits() -> None:
    assert hashes("portable", "haswell") == hashes("portable")
