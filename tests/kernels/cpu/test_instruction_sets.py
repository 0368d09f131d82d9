"""Every instruction set computes the same bits, and the code compiled for one stays within it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
from llvmlite import binding

from numoe.kernels.cpu import instruction_sets
from numoe.kernels.cpu.instruction_sets import INSTRUCTION_SET, INSTRUCTION_SETS, detect, runnable
from numoe.kernels.weights.formats import FORMATS
from tests.kernels.output_hashes import CACHES

ROOT = Path(__file__).parents[3]
RUNNABLE = [one.name for one in runnable()]
# What a CPU without AVX-512 does not have: 512-bit registers, the upper 16 of the 256-bit ones, masks.
BEYOND_AVX2 = re.compile(r"%(?:zmm\d+|[xy]mm(?:1[6-9]|2\d|3[01])|k[0-7])\b")
A_TILE_OF_EACH_KIND = ("F16", "Q8_0", "MXFP4", "Q5_1", "Q4_K", "Q2_K", "Q3_K", "Q6_K")


def run(instruction_set: str, *arguments: str, **environment: str) -> str:
    """What a process with this instruction set writes."""
    process = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "NUMOE_ISA": instruction_set, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@cache
def running_hashes() -> Mapping[str, Future[str]]:
    """What the kernels of all instruction sets compute, being found out; each set has a cache of its own.

    Compiling is most of the work, a minute for each set, and one process does it on one core.
    """
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)), "numoe-compilers")
    return {name: pool.submit(run, name, "-m", "tests.kernels.output_hashes") for name in RUNNABLE[::-1]}


def hashes(instruction_set: str) -> Mapping[str, str]:
    """What the kernels compute."""
    found: dict[str, str] = json.loads(running_hashes()[instruction_set].result())
    assert found.pop("instruction set") == instruction_set
    return found


@pytest.mark.slow
def test_the_portable_kernels_compute_something() -> None:
    found = hashes("portable")
    assert len(found) == 6 * len(FORMATS) + 13 + 6 * len(CACHES)
    for format_ in FORMATS:
        assert len({found[f"tile {format_.name} {width}"] for width in (1, 2, 4, 8)}) == 1
    for name in CACHES:
        assert len({found[f"attend {name}"], *(found[f"attend {name} {width}"] for width in (1, 2, 4, 8))}) == 1
    assert len(set(found.values())) == len(found) - 3 * len(FORMATS) - 4 * len(CACHES)


@pytest.mark.slow
@pytest.mark.parametrize("instruction_set", [name for name in RUNNABLE if name != "portable"])
def test_an_instruction_set_gives_the_bits_of_the_portable_kernels(instruction_set: str) -> None:
    assert hashes(instruction_set) == hashes("portable")


def assembly(instruction_set: str, folder: Path) -> str:
    """What Numba generates for tiles of each kind and for vector code, into a cache where it finds nothing."""
    program = f"""
import numpy as np
from numoe.kernels.weights.formats import FORMATS
from tests.kernels.output_hashes import CACHES
from numoe.kernels.matmul.tile_table import tile_table
from numoe.kernels.matmul.activations import write_integer_column
from numoe.kernels.attention.value_tile import attention_tiles
from tests.kernels.vector_maps import map_exp
attention_tiles([], values=True)
tile_table(format_ for format_ in FORMATS if format_.name in {A_TILE_OF_EACH_KIND})
x = np.zeros(4096, np.float32)
map_exp(x, x)
write_integer_column(x.ctypes.data, 1, 0, x.ctypes.data, 1)
"""
    return run(instruction_set, "-c", program, XDG_CACHE_HOME=str(folder), NUMBA_DUMP_ASSEMBLY="1")


@pytest.mark.slow
@pytest.mark.parametrize("instruction_set", [name for name in RUNNABLE if name in ("avx2", "avxvnni")])
def test_code_for_a_cpu_without_avx512_has_none_of_its_registers(instruction_set: str, tmp_path: Path) -> None:
    code = assembly(instruction_set, tmp_path)
    assert BEYOND_AVX2.findall(code) == []
    assert "%ymm15" in code
    assert ("vpdpbusd" in code) == (instruction_set == "avxvnni")
    assert "vpmaddwd" in code


@pytest.mark.slow
@pytest.mark.skipif("avx512" not in RUNNABLE, reason="this CPU has no AVX-512")
def test_code_for_a_cpu_without_vnni_has_none_of_its_products(tmp_path: Path) -> None:
    code = assembly("avx512", tmp_path)
    assert BEYOND_AVX2.search(code), "the test of AVX2 would not have noticed"
    assert "vpdp" not in code
    assert "vpmaddwd" in code


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A CPU with all features, of which a test takes some, and no NUMOE_ISA."""
    monkeypatch.delenv("NUMOE_ISA", raising=False)
    has_all = {name: True for one in INSTRUCTION_SETS for name in one.needs}
    monkeypatch.setattr(binding, "get_host_cpu_features", lambda: has_all)
    return monkeypatch


@pytest.mark.parametrize(
    ("missing", "best", "runs"),
    [
        ((), "avx512vnni", 5),
        (("avx512vnni",), "avx512", 4),
        (("avxvnni",), "avx512vnni", 4),
        (("avx512bw", "avx512vnni"), "avxvnni", 3),
        (("avx512f", "avxvnni"), "avx2", 2),
        (("avx512f", "gfni"), "avx2", 2),
        (("avx2",), "portable", 1),
        (("f16c",), "portable", 1),
    ],
)
def test_the_best_that_a_cpu_has_is_chosen(
    cpu: pytest.MonkeyPatch, missing: tuple[str, ...], best: str, runs: int
) -> None:
    features = {name: name not in missing for one in INSTRUCTION_SETS for name in one.needs}
    cpu.setattr(binding, "get_host_cpu_features", lambda: features)
    assert detect().name == best
    assert len(runnable()) == runs


@pytest.mark.parametrize("name", [one.name for one in INSTRUCTION_SETS])
def test_any_that_the_cpu_has_may_be_asked_for(cpu: pytest.MonkeyPatch, name: str) -> None:
    cpu.setenv("NUMOE_ISA", name)
    assert detect().name == name


def test_an_unknown_one_is_refused(cpu: pytest.MonkeyPatch) -> None:
    cpu.setenv("NUMOE_ISA", "mmx")
    known = "avx512vnni, avx512, avxvnni, avx2, portable"
    with pytest.raises(ValueError, match=rf"^NUMOE_ISA='mmx' is unknown; this version has {known}$"):
        detect()


def test_one_that_the_cpu_lacks_is_refused(cpu: pytest.MonkeyPatch) -> None:
    cpu.setattr(binding, "get_host_cpu_features", lambda: {"avx512f": True, "avx512vnni": False})
    cpu.setenv("NUMOE_ISA", "avx512vnni")
    with pytest.raises(ValueError, match=r"^NUMOE_ISA='avx512vnni' is not on this CPU; it runs portable$"):
        detect()


def test_ahead_of_time_one_that_the_cpu_lacks_is_compiled_for(cpu: pytest.MonkeyPatch) -> None:
    cpu.setattr(binding, "get_host_cpu_features", dict)
    cpu.setattr(instruction_sets, "AHEAD", True)
    cpu.setenv("NUMOE_ISA", "avx512vnni")
    assert detect().name == "avx512vnni"


def test_this_process_runs_what_was_detected() -> None:
    assert instruction_sets.INSTRUCTION_SET is INSTRUCTION_SET
    assert detect() == INSTRUCTION_SET
