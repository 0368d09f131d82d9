"""The only Numba flags, and where compiled code is kept.

Everything compiled here is cached on disk in one folder per (sources of kernels/, Numba, CPU compiled for, instruction
set): Numba looks only at a function's own file, so a change in what it calls would otherwise be missed. Several
processes that write one cache at once can crash, so one process compiles everything (worker/running/warm.py) before
workers start.

A package may come with kernels that were compiled ahead of time, such as that of a container's image: whoever compiles
first takes into the cache what there is for its instruction set. That is code for the first CPU that had the set, and
all later compilation is for that CPU, too, so that both are one cache.

No fast-math anywhere: the bits of a result must not depend on what the optimiser finds to reorder.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numba
from llvmlite import binding

from numoe.kernels.cpu.compiled_files import use_own_files
from numoe.kernels.cpu.instruction_sets import AHEAD, INSTRUCTION_SET
from numoe.protos.folders import cache_folder as common_cache_folder
from numoe.protos.folders import make_private

KERNELS = Path(__file__).parents[1]  # all rooms of kernels/
LOCK = "lock"

F = TypeVar("F", bound=Callable[..., Any])


def cache_folder() -> Path:
    """The folder where this build of the kernels is kept."""
    if AHEAD:
        return ahead_folder()
    return common_cache_folder() / "kernels" / _build(_target())


def ahead_folder() -> Path:
    """Where the package has kernels for this instruction set, if it came with any."""
    return KERNELS / "ahead" / _build(INSTRUCTION_SET.first_cpu)


def sources_digest() -> bytes:
    """Of all that the kernels are written in: the bits that they make follow from it."""
    digest = hashlib.sha256()
    for source in sorted(KERNELS.rglob("*.py")):
        digest.update(str(source.relative_to(KERNELS)).encode())
        digest.update(source.read_bytes())
    return digest.digest()


def _target() -> str | None:
    """The CPU that LLVM compiles for; None: this one."""
    return INSTRUCTION_SET.first_cpu if AHEAD or ahead_folder().is_dir() else INSTRUCTION_SET.cpu


def _build(target: str | None) -> str:
    """A name for all that the code depends on."""
    digest = hashlib.sha256(sources_digest())
    cpu = target or binding.get_host_cpu_name()
    digest.update(f"{numba.__version__} {cpu} {INSTRUCTION_SET.name}".encode())
    return digest.hexdigest()[:16]


@contextmanager
def sole_compiler() -> Iterator[Path]:
    """Hold the cache folder: other processes wait here, so that one at a time fills it."""
    folder = _own_cache_folder()
    with (folder / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the process ends, however it does
        _take_ahead(folder)
        yield folder


def _take_ahead(folder: Path) -> None:
    """Copy what the package came with and the cache has not: a copy that breaks off counts as damaged, see warm.py."""
    ahead = ahead_folder()
    if folder == ahead:
        return
    for file in [path for path in ahead.rglob("*") if path.is_file() and path.name != LOCK]:
        copy = folder / file.relative_to(ahead)
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def _own_cache_folder() -> Path:
    """The cache folder, made if need be; raises SetupError where others could have put code there that we would run."""
    folder = cache_folder()
    if AHEAD:  # a part of the package, to be read by all as the rest is
        folder.mkdir(parents=True, exist_ok=True)
    else:
        make_private(folder, common_cache_folder())
    return folder


use_own_files(KERNELS)
numba.config.CACHE_DIR = str(_own_cache_folder())
if (_cpu := _target()) is not None:
    numba.config.CPU_NAME, numba.config.CPU_FEATURES = _cpu, ""


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
