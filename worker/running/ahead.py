"""Compiles kernels into the package itself, for machines that are not known yet.

    python -m numoe.worker.running.ahead avx2 avx512vnni F32 Q8_0

names instruction sets as kernels/cpu/instruction_sets.py does, which this machine need not have, and formats as warm.py
does; without a format all are compiled. The image of a container is built so: whoever compiles first copies what there
is into the cache (kernels/cpu/jit.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from numoe.kernels.cpu.instruction_sets import INSTRUCTION_SETS
from numoe.kernels.weights.formats import FORMATS
from numoe.worker.running.warm import VALUES

SETS = [one.name for one in INSTRUCTION_SETS if one.first_cpu is not None]
NAMES = [*(one.name for one in FORMATS), VALUES]


def compile_ahead(name: str, formats: list[str]) -> int:
    """Compile for one instruction set, in a process of its own, as a process has but one; returns its exit status."""
    command = [sys.executable, "-m", "numoe.worker.running.warm", *formats]
    return subprocess.run(command, env={**os.environ, "NUMOE_ISA": name, "NUMOE_AHEAD": "1"}, check=False).returncode


def main(names: list[str]) -> None:
    """Compile for all instruction sets named, as many at once as there are CPUs."""
    if unknown := set(names) - {*SETS, *NAMES}:
        sys.exit(f"{', '.join(sorted(unknown))} is neither of {', '.join(SETS)} nor of {', '.join(NAMES)}")
    formats = [name for name in names if name in NAMES]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = pool.map(lambda name: compile_ahead(name, formats), [name for name in SETS if name in names])
        sys.exit(max(results, default=0))


if __name__ == "__main__":
    main(sys.argv[1:])
