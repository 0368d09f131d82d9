"""The instruction sets that kernels are compiled for, and which one this process uses.

    avx512vnni   512-bit registers, 4 products of bytes into a 32-bit sum at once    Cascade Lake, Zen 4 and newer
    avx512       512-bit registers, 2 products of bytes into a 16-bit sum            Skylake-SP
    avxvnni      256-bit registers, 4 products of bytes                              Alder Lake, Sierra Forest
    avx2         256-bit registers, 2 products of bytes                              Haswell, Zen 1 to 3
    portable     what LLVM makes of plain vector code                                anything

Kernels can be compiled ahead of time, for machines that are not known yet (worker/running/ahead.py): then for the first
CPU that had the set, whose code all that have it run. NUMOE_AHEAD says so to the processes that do it.

All give the same bits: sums of products are exact integers, every floating-point step is one IEEE operation or a fused
multiply-add, and a lane is a row everywhere. They differ in dots.py, in what its sums hold, and in the widths.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from llvmlite import binding


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """One variant."""

    name: str
    needs: tuple[str, ...]  # LLVM's names of CPU features
    cpu: str | None  # the CPU that LLVM compiles for; None: this one
    first_cpu: str | None  # the CPU that it compiles for ahead of time; None: it cannot, as there is no such CPU
    widths: tuple[int, ...]  # columns of a tile: what the registers hold
    groups: int  # of the widest tile's columns that it takes one after the other, unpacking weights once for all


# Also what LLVM may use of the CPUs named below without being asked, which a virtual machine can hide.
_AVX2 = ("avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe", "popcnt")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
INSTRUCTION_SETS = (
    InstructionSet("avx512vnni", (*_AVX512, "avx512vnni"), None, "cascadelake", (1, 2, 4, 8, 12), 1),
    InstructionSet("avx512", _AVX512, "skylake-avx512", "skylake-avx512", (1, 2, 4, 8), 1),
    InstructionSet("avxvnni", (*_AVX2, "avxvnni", "gfni"), "alderlake", "alderlake", (1, 2, 4), 8),
    InstructionSet("avx2", _AVX2, "haswell", "haswell", (1, 2, 4), 8),
    InstructionSet("portable", (), None, None, (1, 2, 4, 8), 1),
)

AHEAD = os.environ.get("NUMOE_AHEAD") == "1"  # whether this process only compiles, for other machines


def runnable() -> list[InstructionSet]:
    """Those that this CPU has, the best first."""
    features = binding.get_host_cpu_features()
    return [found for found in INSTRUCTION_SETS if all(features.get(name, False) for name in found.needs)]


def detect() -> InstructionSet:
    """The best that this CPU runs, or what NUMOE_ISA names.

    Raises:
        ValueError: NUMOE_ISA names an unknown instruction set, or one this CPU does not have and is to run.
    """
    found = runnable()
    wanted = os.environ.get("NUMOE_ISA", found[0].name)
    by_name = {one.name: one for one in INSTRUCTION_SETS}
    if wanted not in by_name:
        raise ValueError(f"NUMOE_ISA={wanted!r} is unknown; this version has {', '.join(by_name)}")
    if by_name[wanted] not in found and not AHEAD:
        raise ValueError(f"NUMOE_ISA={wanted!r} is not on this CPU; it runs {', '.join(one.name for one in found)}")
    return by_name[wanted]


INSTRUCTION_SET = detect()
