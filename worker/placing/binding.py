"""Binds a process to its NUMA node before Python maps anything: sets affinity and memory policy, then runs the program.

    python -m numoe.worker.placing.binding NODE CPUS PROGRAM [ARGUMENT ...]        e.g.  1 20-39 /usr/bin/python3

Both survive exec, so every thread and every page of the program is bound from its first instruction. Binding inside the
program instead leaves the threads and pages that its libraries made before on whatever node they fell. What was
reached is left in the environment as NUMOE_BINDING: "cpus+memory", or "cpus" where the kernel refuses memory policies
(containers without CAP_SYS_NICE); pages then follow first touch, which the affinity puts on the right node.

Why it cannot bind is told in one line on standard error.
"""

from __future__ import annotations

import os
import sys

from numoe.model.machine.id_lists import parse_id_list
from numoe.model.machine.memory_policy import bind_memory


def main() -> None:
    """Bind, then become the program."""
    if len(sys.argv) < 4:
        sys.exit("usage: python -m numoe.worker.placing.binding NODE CPUS PROGRAM [ARGUMENT ...]")
    try:
        _bind(int(sys.argv[1]), sys.argv[2])
        os.execvp(sys.argv[3], sys.argv[3:])
    except OSError as error:
        sys.exit(f"cannot run {sys.argv[3]} on CPUs {sys.argv[2]}: {error}")


def _bind(node: int, cpu_list: str) -> None:
    cpus = set(parse_id_list(cpu_list))
    allowed = os.sched_getaffinity(0)
    missing = cpus - allowed  # the kernel would leave them out without a word, as long as one is left
    if missing:
        sys.exit(f"cannot run on CPUs {cpu_list}: {sorted(missing)} are not among the allowed {sorted(allowed)}")
    os.sched_setaffinity(0, cpus)
    try:
        bind_memory(node)
    except OSError:
        os.environ["NUMOE_BINDING"] = "cpus"
    else:
        os.environ["NUMOE_BINDING"] = "cpus+memory"


if __name__ == "__main__":
    main()
