"""The doctor's checks of the memory of NUMA nodes: how it is spread, who fills it, whether a model fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

from numoe.model.doctor.finding import Finding
from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.linux_files import meminfo_bytes, read_text
from numoe.model.machine.topology import Node, Topology
from numoe.model.planning.worker_memory import SERVICE_BYTES

GIBIBYTE = 1 << 30
UNEVEN_SHARE = 0.8  # of the largest node's memory: less is another set of DIMMs, not what the kernel keeps for itself
CROWDED_CACHE_SHARE = 0.5  # of a node's memory
TIGHT_SHARE = 0.95  # of what is available; loading itself needs a little
DROP_CACHES = "sync; echo 1 > /proc/sys/vm/drop_caches"


def check_memory_of_nodes(topology: Topology) -> Iterator[Finding]:
    """Check for nodes that have no memory, only memory, or less than others."""
    subject, homes = "memory of nodes", [node for node in topology.nodes if node.cores]
    bare = [node.id for node in homes if not node.memory_bytes and node.id not in topology.forbidden_nodes]
    if bare:
        yield Finding(
            "warning",
            subject,
            f"node {format_id_list(bare)} has cores but no memory",
            f"{sum(len(topology.node(node).cores) for node in bare)} cores stay idle, their memory channels are empty",
            "put DIMMs into that socket's slots, as many as into the others'",
        )
    if len(bare) == len(homes):
        return
    far = [node.id for node in topology.nodes if not node.cores and node.package is None and node.memory_bytes]
    if far:
        amount = sum(topology.node(node).memory_bytes for node in far) / GIBIBYTE
        found = (
            f"node {format_id_list(far)} has {amount:.0f} GiB but no cores (CXL, or memory of the package): not used"
        )
        yield Finding("note", subject, found)
    sizes = {node.id: node.memory_bytes for node in homes if node.memory_bytes}
    largest = max(sizes.values(), default=0)
    smaller = [node for node, size in sizes.items() if size < UNEVEN_SHARE * largest]
    if smaller:
        listed = ", ".join(f"node {node} {size / GIBIBYTE:.0f} GiB" for node, size in sizes.items())
        yield Finding(
            "warning",
            subject,
            f"uneven: {listed}",
            f"models above {len(sizes) * min(sizes.values()) / GIBIBYTE:.0f} GiB fit only in unequal parts, and the "
            "largest sets the pace; empty slots may also be idle memory channels",
            "the same DIMMs in the same slots of every socket",
        )
    elif len(sizes) > 1 and not bare:
        yield Finding("ok", subject, f"even: {len(sizes)} nodes of {largest / GIBIBYTE:.0f} GiB")


def check_page_cache(root: Path, topology: Topology, needed: Mapping[int, int]) -> Iterator[Finding]:
    """Check for file pages that crowd one node; `needed` are the bytes that a model's plan needs, by node id."""
    homes = [node for node in topology.nodes if node.cores and node.memory_bytes]
    if len(homes) < 2:
        return
    shares = {node.id: _cached_bytes(root, node) / node.memory_bytes for node in homes}
    usual = median(sorted(shares.values())[:-1])
    crowded = [node for node in homes if shares[node.id] > max(CROWDED_CACHE_SHARE, 2 * usual)]
    for node in crowded:
        in_the_way = needed.get(node.id, 0) > node.free_bytes
        yield Finding(
            "warning" if in_the_way else "note",
            "page cache",
            f"file pages hold {shares[node.id]:.0%} of node {node.id}, {usual:.0%} of the others: "
            "what was read last lies on one node",
            "engines that map files read it over the socket link; numoe's workers copy it to their own nodes, and wait "
            "for the kernel to take these pages back" + (", as this model needs them" if in_the_way else ""),
            DROP_CACHES,
        )
    if not crowded:
        yield Finding("ok", "page cache", f"no node is full of file pages (at most {max(shares.values()):.0%})")


def _cached_bytes(root: Path, node: Node) -> int:
    """The page cache on a node, without shared memory, which cannot be taken back."""
    memory = meminfo_bytes(read_text(root / f"sys/devices/system/node/node{node.id}/meminfo"))
    return max(0, memory.get("FilePages", 0) - memory.get("Shmem", 0))


def check_room(topology: Topology, needed: Mapping[int, int]) -> Iterator[Finding]:
    """Check whether each node has room for what a model's plan needs of it, in bytes by node id."""
    for node_id, wanted in sorted(needed.items()):
        node = topology.node(node_id)
        text = f"node {node_id} needs {wanted / GIBIBYTE:.1f} GiB for weights, KV cache and working memory"
        available, free = node.available_bytes, node.free_bytes
        if wanted > available:
            yield Finding(
                "problem",
                "room for the model",
                f"{text}, {available / GIBIBYTE:.1f} are available",
                "it will not be loaded",
                "lower --context-tokens, use more nodes, or a smaller quantisation; end other programs",
            )
        elif wanted > TIGHT_SHARE * available:
            found = f"{text}, of {available / GIBIBYTE:.1f} available"
            yield Finding("warning", "room for the model", found, "little is left for anything else on that node")
        elif wanted > free:
            found = f"{text}; {free / GIBIBYTE:.1f} are free, the rest is page cache that the kernel takes back"
            yield Finding("note", "room for the model", found, "loading waits for that", DROP_CACHES)
        else:
            yield Finding("ok", "room for the model", f"{text}, {free / GIBIBYTE:.1f} are free")
    whole, available = sum(needed.values()) + SERVICE_BYTES, sum(node.available_bytes for node in topology.nodes)
    if needed and whole > available >= sum(needed.values()):
        yield Finding(
            "problem",
            "room for the model",
            f"all nodes: {whole / GIBIBYTE:.1f} GiB with the coordinator and Ray, {available / GIBIBYTE:.1f} available",
            "it will not be loaded",
            "lower --context-tokens, or a smaller quantisation; end other programs",
        )
