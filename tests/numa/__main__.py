"""`make test-numa`: runs the tests that need two NUMA nodes, here if there are two, else in a guest that has them.

The guest (guest.sh) is emulated and some twenty times slower, so what can be made in advance is made here: the bytecode
of what it imports, as it cannot keep its own, and the kernels for the instruction set that it has, which it finds in
the cache as its own. Both stay in the cache folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import structlog

from numoe.kernels.cpu.jit import cache_folder
from numoe.model.machine.topology_reading import read_topology

ROOT = Path(__file__).parents[2]
GUEST = Path(__file__).with_name("guest.sh")
TESTS = ("tests/numa", "tests/worker/placing/test_pages.py")
GUEST_INSTRUCTIONS = "avx2"  # of what the emulation knows, the best
GUEST_FAILED = 125  # see guest.sh
SECONDS = 1500  # until the guest is given up; it took 510 with a third of one core
IMPORTED = (
    "tests.numa.test_group",
    "tests.numa.test_spread",
    "tests.worker.placing.loading_worker",
    "numoe.worker.placing.binding",
    "numoe.worker.running.warm",
)

_log = structlog.get_logger()


def main(arguments: list[str]) -> int:
    """The exit status of the tests; 0 with a remark where they cannot run."""
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "numa", *TESTS, *arguments]
    if len([node for node in read_topology().nodes if node.memory_bytes and node.cores]) > 1:
        return subprocess.run(tests, cwd=ROOT, check=False).returncode
    if subprocess.run([str(GUEST), "--prepare"], check=False).returncode == GUEST_FAILED:
        return _skip("one NUMA node here, and no guest of two: its message is above")
    environment = _prepare()
    passed = [part for name in environment for part in ("--env", name)]
    guest = [str(GUEST), "--timeout", str(SECONDS), "--append", "numa_balancing=enable", *passed, "--", *tests]
    done = subprocess.run([*guest, "-p", "no:cacheprovider"], cwd=ROOT, env={**os.environ, **environment}, check=False)
    return _skip("the guest broke down: its message is above") if done.returncode == GUEST_FAILED else done.returncode


def _skip(why: str) -> int:
    _log.warning("numa_tests_skipped", why=why)
    return 0


def _prepare() -> dict[str, str]:
    """Fill the caches; what the guest must know to find them."""
    cache = cache_folder().parents[1]
    environment = {
        "PYTHONPYCACHEPREFIX": str(cache / "bytecode"),
        "XDG_CACHE_HOME": str(cache.parent),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    writing = {**os.environ, **environment}
    writing.pop("PYTHONDONTWRITEBYTECODE", None)
    for program, extra in (
        (["-c", f"import pytest, {', '.join(IMPORTED)}"], {}),
        (["-m", "numoe.worker.running.warm", "F16", "F32"], {"NUMOE_ISA": GUEST_INSTRUCTIONS}),
    ):
        subprocess.run([sys.executable, *program], cwd=ROOT, env={**writing, **extra}, check=True)
    return environment


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
