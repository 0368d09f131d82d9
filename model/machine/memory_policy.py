"""System calls about where memory lies: bind this thread to nodes, ask where pages are, try what is allowed.

It imports nothing but the standard library: it runs before anything else does in a worker (worker/placing/binding.py).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

MOVE_PAGES = 279  # x86-64, as the others
_MBIND, _SET_MEMPOLICY, _GET_MEMPOLICY = 237, 238, 239
PolicyKind = Literal["default", "preferred", "bind", "interleave", "weighted interleave"]
_KINDS: Mapping[int, PolicyKind] = {
    0: "default", 1: "preferred", 2: "bind", 3: "interleave", 4: "default", 5: "preferred", 6: "weighted interleave"
}  # fmt: skip
_MODES: Mapping[PolicyKind, int] = {"bind": 2, "interleave": 3}
_MODE_FLAGS = 0xE000  # that numactl --balancing and other programs add to the mode
_MASK_WORDS = 16  # 1024 nodes
_MASK_BITS = 64 * _MASK_WORDS
_LIBC = ctypes.CDLL(None, use_errno=True)  # calls release the GIL


@dataclass(frozen=True, slots=True)
class MemoryPolicy:
    """On which nodes a thread's pages go: on these only (bind), on these in turn (interleave), rather on these."""

    kind: PolicyKind = "default"
    nodes: tuple[int, ...] = ()  # ascending; none with "default", which is the node of the CPU that touches a page


DEFAULT_POLICY = MemoryPolicy()


@dataclass(frozen=True, slots=True)
class PolicyTrial:
    """What came of trying the system calls: their errors, and where a page lay that was bound to a node."""

    errors: tuple[tuple[str, str], ...]  # (call, the kernel's word); empty: all calls work
    bound_to: int
    lay_on: int | None  # None: the kernel does not tell


def system_call(number: int, *arguments: object) -> int:
    """Make a system call; whole numbers are passed in 64 bits. Raises OSError."""
    passed = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result = int(_LIBC.syscall(ctypes.c_long(number), *passed))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def set_policy(policy: MemoryPolicy) -> None:
    """Let this thread, and what it starts from now on, allocate so: "bind" or "interleave". Raises OSError."""
    system_call(_SET_MEMPOLICY, _MODES[policy.kind], node_mask(policy.nodes), _MASK_BITS + 1)


def bind_memory(node: int) -> None:
    """Let this thread, and what it starts from now on, allocate on `node` only. Raises OSError."""
    set_policy(MemoryPolicy("bind", (node,)))


def current_policy() -> MemoryPolicy | None:
    """The policy of this thread, inherited from whoever started it if nobody has set it; None: the kernel keeps it."""
    mode, mask = ctypes.c_int(), (ctypes.c_uint64 * _MASK_WORDS)()
    try:
        system_call(_GET_MEMPOLICY, ctypes.byref(mode), mask, _MASK_BITS, None, 0)
    except OSError:
        return None
    nodes = (64 * word + bit for word, bits in enumerate(mask) for bit in range(64) if bits >> bit & 1)
    return MemoryPolicy(_KINDS.get(mode.value & ~_MODE_FLAGS, "default"), tuple(nodes))


def place_range(address: int, size: int, policy: MemoryPolicy) -> None:
    """Let the pages of a range that begins with one come to be so, whoever touches them first. Raises OSError."""
    system_call(_MBIND, address, size, _MODES[policy.kind], node_mask(policy.nodes), _MASK_BITS + 1, 0)


def nodes_of_pages(addresses: Sequence[int]) -> list[int]:
    """The node of each page of this process, negative where there is no page yet. Raises OSError."""
    count = len(addresses)
    pages, status = (ctypes.c_void_p * count)(*addresses), (ctypes.c_int * count)()
    system_call(MOVE_PAGES, 0, count, pages, None, status, 0)
    return list(status)


def try_policies(node: int) -> PolicyTrial:
    """Bind a page to `node` and ask where it is, in a thread of its own, since a policy holds for one thread."""
    trials: list[PolicyTrial] = []
    thread = threading.Thread(target=lambda: trials.append(_try(node)))
    thread.start()
    thread.join()
    return trials[0]


def node_mask(nodes: Iterable[int]) -> ctypes.Array[ctypes.c_uint64]:
    """A set of nodes, as the kernel reads it. Raises OSError: a number is beyond those that it can have."""
    mask = (ctypes.c_uint64 * _MASK_WORDS)()
    for node in nodes:
        if not 0 <= node < _MASK_BITS:
            raise OSError(errno.EINVAL, f"there is no node {node}")
        mask[node // 64] |= 1 << (node % 64)
    return mask


def _try(node: int) -> PolicyTrial:
    errors: list[tuple[str, str]] = []
    nodes: list[int] = []
    with _failure_told("set_mempolicy", errors):
        bind_memory(node)
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    place = ctypes.c_char.from_buffer(page)
    address = ctypes.addressof(place)
    with _failure_told("mbind", errors):
        place_range(address, mmap.PAGESIZE, MemoryPolicy("bind", (node,)))
    page[0] = 1  # written: there is no page before
    with _failure_told("move_pages", errors):
        nodes = nodes_of_pages([address])
    del place
    page.close()
    return PolicyTrial(tuple(errors), node, nodes[0] if nodes and nodes[0] >= 0 else None)


@contextmanager
def _failure_told(call: str, errors: list[tuple[str, str]]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        errors.append((call, f"{error.strerror} ({errno.errorcode.get(error.errno or 0, error.errno)})"))
