"""The doctor's checks of what was measured: slow nodes, links between sockets, waits, the speed a model can have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from numoe.model.doctor.finding import Finding
from numoe.model.machine.bandwidth import Bandwidth
from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.topology import Topology
from numoe.model.machine.waits import Apart, Waits

SLOW_SHARE = 0.85  # of the fastest node; two equal nodes were never seen farther apart than the noise of a busy machine
BUSY_SHARE = 0.25  # of the cores: a quarter of them may miss from the measurement
ALIKE_SHARE = 0.9  # of local: a link between sockets is never that good
LONG_WAIT_SECONDS = 10e-6  # of all threads of a node: 128 in groups that share caches should need 2 us
LAYER_WAITS = 12  # of a decode
POOR_SHARE = 0.3  # of local; two Xeon 6980P reach 0.45


def check_load(load: float, cores: int) -> Iterator[Finding]:
    """Check whether other programs ran during the measurement; `load` is the load average from before it."""
    if load > BUSY_SHARE * cores:
        yield Finding(
            "note",
            "bandwidth",
            f"measured while other programs ran (load {load:.1f} on {cores} cores)",
            "the figures are lower than the machine's",
            "numoe doctor, when it is idle",
        )


def check_local(bandwidth: Bandwidth) -> Iterator[Finding]:
    """Check how fast nodes read their own memory: the slowest node is given less to do, or sets the pace."""
    subject, local = "bandwidth of nodes", bandwidth.local
    if not local:
        yield Finding("warning", subject, "no node's own memory could be measured", "nothing can be said of its speed")
        return
    fastest, slowest = max(local.values()), min(local.values())
    slow = [node for node, rate in local.items() if rate < SLOW_SHARE * fastest]
    if slow:
        lost = 1 - len(local) * slowest / sum(local.values())
        yield Finding(
            "warning",
            subject,
            f"node {format_id_list(slow)} reads its memory at {slowest / fastest:.0%} of the fastest node's speed",
            f"in equal parts all wait for the slowest, and {lost:.0%} of the bandwidth is not used",
            "look for empty or slower DIMM slots of that socket (dmidecode -t memory), and for other programs on it",
        )
    else:
        each = f"{slowest / 1e9:.0f}" if len(local) == 1 else f"{slowest / 1e9:.0f} to {fastest / 1e9:.0f}"
        yield Finding("ok", subject, f"{each} GB/s" + (" each" if len(local) > 1 else ""))


def check_remote(bandwidth: Bandwidth, topology: Topology) -> Iterator[Finding]:
    """Check how much slower memory of another socket is read."""
    local, package = bandwidth.local, {node.id: node.package for node in topology.nodes}
    shares = []
    for read in bandwidth.reads:
        apart = None not in (package.get(read.cores_of), package.get(read.memory_of))
        if apart and package[read.cores_of] != package[read.memory_of] and read.cores_of in local:
            shares.append(read.bytes_per_second / local[read.cores_of])
    if not shares:
        return
    least, most, subject = min(shares), max(shares), "bandwidth between sockets"
    found = f"{least:.0%} of local" if most - least < 0.05 else f"{least:.0%} to {most:.0%} of local"
    if least > ALIKE_SHARE:
        cost = (
            "nothing, if it is so: but then memory may not lie where the kernel says (a virtual machine without nodes)"
        )
        yield Finding("note", subject, found, cost, "give the guest the host's nodes (vNUMA), pinned one to one")
    elif least < POOR_SHARE:
        cost = f"a worker whose weights lie on the other socket decodes at {least:.0%} of its speed, and exchanges wait"
        remedy = "firmware: full speed of the socket links (UPI, xGMI), no power saving on them; snoop mode"
        yield Finding("warning", subject, found, cost, remedy)
    else:
        yield Finding("ok", subject, f"{found}: what a page on the wrong socket would be read at")


def check_waits(waits: Waits | None) -> Iterator[Finding]:
    """Say how far apart cores are, and what all threads of a node lose to waiting for each other."""
    if waits is None:
        return
    places: dict[Apart, str] = {"cache": "inside a cache", "package": "between caches", "machine": "between sockets"}
    far = ", ".join(f"{1e9 * seconds:.0f} ns {places[apart]}" for apart, seconds in waits.passes.items())
    most = waits.teams[-1]
    wait = f"{most.threads} threads wait {1e6 * most.barrier:.1f} us for each other"
    found = f"a line goes from core to core in {far}; {wait}, {1e6 * most.claims:.1f} us more where they share work out"
    if most.barrier > LONG_WAIT_SECONDS:
        cost = (
            f"some {1e3 * LAYER_WAITS * most.barrier:.2f} ms a layer of each token: they wait {LAYER_WAITS} times in it"
        )
        remedy = "cores of its own for every thread: no other programs, no CPUs that a hypervisor shares out twice"
        yield Finding("note", "waits", found, cost, remedy)
    else:
        yield Finding("ok", "waits", found)


def check_speed(bandwidth: Bandwidth, read_per_token: Mapping[int, int]) -> Iterator[Finding]:
    """Say how many tokens per second memory allows one request; `read_per_token` are bytes of weights by node id."""
    local = bandwidth.local
    rates = [local[node] / count for node, count in read_per_token.items() if node in local and count]
    if rates and len(rates) == len([count for count in read_per_token.values() if count]):
        found = f"memory allows one request {min(rates):.1f} tokens/s at most, before keys and values"
        yield Finding("ok", "speed of the model", found)
