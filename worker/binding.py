"""Binds a process to its NUMA node before Python maps anything: sets affinity and memory policy, then runs the program.

    python -m numoe.worker.binding NODE CPUS PROGRAM [ARGUMENT ...]        e.g.  1 20-39 /usr/bin/python3

Both survive exec, so every thread and every page of the program is bound from its first instruction. Binding inside the
program instead leaves the threads and pages that its libraries made before on whatever node they fell. What was
reached is left in the environment as NUMOE_BINDING: "cpus+memory", or "cpus" where the kernel refuses memory policies
(containers without CAP_SYS_NICE); pages then follow first touch, which the affinity puts on the right node.
"""

from __future__ import annotations

import ctypes
import os
import sys

_SET_MEMPOLICY, _GET_MEMPOLICY = 238, 239  # x86-64
_MPOL_BIND = 2
_MASK_WORDS = 16  # 1024 nodes
_LIBC = ctypes.CDLL(None, use_errno=True)  # calls release the GIL


def parse_cpus(text: str) -> set[int]:
    """ "0-3,8" as {0, 1, 2, 3, 8}."""
    cpus: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def system_call(number: int, *arguments: object) -> int:
    """One of the kernel's calls; whole numbers are passed in 64 bits. Raises OSError."""
    passed = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result = int(_LIBC.syscall(ctypes.c_long(number), *passed))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _node_mask(node: int) -> ctypes.Array[ctypes.c_uint64]:
    """The set of one node, as the kernel reads it."""
    mask = (ctypes.c_uint64 * _MASK_WORDS)()
    mask[node // 64] = 1 << (node % 64)
    return mask


def bind_memory(node: int) -> bool:
    """Let this process allocate on `node` only; False where the kernel refuses."""
    mask = _node_mask(node)
    try:
        system_call(_SET_MEMPOLICY, _MPOL_BIND, ctypes.byref(mask), 64 * _MASK_WORDS + 1)
    except OSError:
        return False
    return True


def bound_nodes() -> set[int] | None:
    """The nodes that this thread may allocate on by its policy; None: any, or the kernel does not tell."""
    mode, mask = ctypes.c_int(), (ctypes.c_uint64 * _MASK_WORDS)()
    try:
        system_call(_GET_MEMPOLICY, ctypes.byref(mode), ctypes.byref(mask), 64 * _MASK_WORDS, None, 0)
    except OSError:
        return None
    if mode.value != _MPOL_BIND:
        return None
    return {64 * word + bit for word, bits in enumerate(mask) for bit in range(64) if bits >> bit & 1}


def main() -> None:
    """Bind, then become the program."""
    if len(sys.argv) < 4:
        sys.exit("usage: python -m numoe.worker.binding NODE CPUS PROGRAM [ARGUMENT ...]")
    node, cpus = int(sys.argv[1]), parse_cpus(sys.argv[2])
    allowed = os.sched_getaffinity(0)
    missing = cpus - allowed  # the kernel would leave them out without a word, as long as one is left
    if missing:
        sys.exit(f"cannot run on CPUs {sys.argv[2]}: {sorted(missing)} are not among the allowed {sorted(allowed)}")
    os.sched_setaffinity(0, cpus)
    os.environ["NUMOE_BINDING"] = "cpus+memory" if bind_memory(node) else "cpus"
    os.execvp(sys.argv[3], sys.argv[3:])


if __name__ == "__main__":
    main()
