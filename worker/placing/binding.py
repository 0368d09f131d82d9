"""Binds a process to its NUMA node before Python maps anything: sets affinity and memory policy, then runs the program.

    python -m numoe.worker.placing.binding MEMORY CPUS PROGRAM [ARGUMENT ...]        e.g.  1 20-39 /usr/bin/python3

MEMORY is a node, or several as in 0-1, which alone may hold its pages; interleave:0-1 puts them on these in turn, and
"any" leaves the policy as it is.

Both survive exec, so every thread and every page of the program is bound from its first instruction. Binding inside the
program instead leaves the threads and pages that its libraries made before on whatever node they fell. What was
reached is left in the environment as NUMOE_BINDING: "cpus+memory" or "cpus+interleaved", or "cpus" where no policy was
wanted or the kernel refuses memory policies (containers without CAP_SYS_NICE); pages then follow first touch, which the
affinity puts on the right node.

Why it cannot bind is told in one line on standard error.
"""

from __future__ import annotations

import os
import sys

from numoe.model.machine.id_lists import parse_id_list
from numoe.model.machine.memory_policy import MemoryPolicy, set_policy
from numoe.protos.locality import ANY_MEMORY, CPUS, INTERLEAVED, MEMORY


def main() -> None:
    """Bind, then become the program."""
    if len(sys.argv) < 4:
        sys.exit("usage: python -m numoe.worker.placing.binding MEMORY CPUS PROGRAM [ARGUMENT ...]")
    try:
        _bind(sys.argv[1], sys.argv[2])
        os.execvp(sys.argv[3], sys.argv[3:])
    except OSError as error:
        sys.exit(f"cannot run {sys.argv[3]} on CPUs {sys.argv[2]}: {error}")


def _bind(memory: str, cpu_list: str) -> None:
    cpus = set(parse_id_list(cpu_list))
    allowed = os.sched_getaffinity(0)
    missing = cpus - allowed  # the kernel would leave them out without a word, as long as one is left
    if missing:
        sys.exit(f"cannot run on CPUs {cpu_list}: {sorted(missing)} are not among the allowed {sorted(allowed)}")
    os.sched_setaffinity(0, cpus)
    os.environ["NUMOE_BINDING"] = CPUS
    if memory == ANY_MEMORY:
        return
    kind, _, nodes = memory.rpartition(":")
    try:
        set_policy(MemoryPolicy("interleave" if kind else "bind", parse_id_list(nodes)))
    except OSError:
        return
    os.environ["NUMOE_BINDING"] = f"{CPUS}+{INTERLEAVED if kind else MEMORY}"


if __name__ == "__main__":
    main()
