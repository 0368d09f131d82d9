"""The only Numba flags, and where compiled code is kept.

Everything compiled here is cached on disk in one folder per (sources of kernels/, Numba, CPU compiled for, instruction
set): Numba looks only at a function's own file, so a change in what it calls would otherwise be missed. Several
processes that write one cache at once can crash, so one process compiles everything (worker/running/warm.py) before
workers start.

No fast-math anywhere: the bits of a result must not depend on what the optimiser finds to reorder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numba
from llvmlite import binding

from numoe.kernels.cpu.instruction_sets import INSTRUCTION_SET

KERNELS = Path(__file__).parents[1]  # all rooms of kernels/

F = TypeVar("F", bound=Callable[..., Any])


def cache_folder() -> Path:
    """The folder where this build of the kernels is kept, below $XDG_CACHE_HOME/numoe."""
    digest = hashlib.sha256()
    for source in sorted(KERNELS.rglob("*.py")):
        digest.update(source.read_bytes())
    cpu = INSTRUCTION_SET.cpu or binding.get_host_cpu_name()
    digest.update(f"{numba.__version__} {cpu} {INSTRUCTION_SET.name}".encode())
    digest.update(str(KERNELS).encode())
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "numoe" / "kernels" / digest.hexdigest()[:16]


@contextmanager
def sole_compiler() -> Iterator[Path]:
    """Hold the cache folder, which is made if need be: other processes wait here, so that one at a time fills it."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the process ends, however it does
        yield folder


numba.config.CACHE_DIR = str(cache_folder())
if INSTRUCTION_SET.cpu is not None:
    numba.config.CPU_NAME, numba.config.CPU_FEATURES = INSTRUCTION_SET.cpu, ""


def kernel(function: F) -> F:
    """Compile at first call, without the GIL, cached on disk."""
    compiled: F = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    return compiled


def generator(function: F) -> F:
    """As `kernel`, but for what yields: it is kept in its callers' caches, as Numba cannot use one that it loads."""
    compiled: F = numba.njit(nogil=True, error_model="numpy")(function)
    return compiled


def address_of(signature: Any, function: Callable[..., None]) -> int:
    """Compile `function` on its own and return its address, for calls through a table (3.5 ns each)."""
    return int(numba.cfunc(signature, nopython=True, cache=True, error_model="numpy")(function).address)


def compile_for(function: Callable[..., Any], *arguments: Any) -> None:
    """Compile a kernel for arguments of these types without running it."""
    function.compile(tuple(numba.typeof(argument) for argument in arguments))  # type: ignore[attr-defined]
