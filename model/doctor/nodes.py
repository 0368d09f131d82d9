"""The doctor's checks of NUMA nodes: what the firmware made of the sockets, how memory is spread, who fills it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

from numoe.model.doctor.finding import Finding
from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.linux_files import meminfo_bytes, read_text
from numoe.model.machine.processor import Processor
from numoe.model.machine.topology import Node, Topology
from numoe.model.planning.plan import MOST_WORKERS

GIBIBYTE = 1 << 30
UNEVEN_SHARE = 0.8  # of the largest node's memory: less is another set of DIMMs, not what the kernel keeps for itself
CROWDED_CACHE_SHARE = 0.5  # of a node's memory
TIGHT_SHARE = 0.95  # of what is available; loading itself needs a little
LEAST_CORES_TO_DIVIDE = 16  # of a socket: dividing fewer gains little
DROP_CACHES = "sync; echo 1 > /proc/sys/vm/drop_caches"
# Xeon E5 v3 and v4: the firmware's snoop mode decides how fast remote memory is, and nothing shows it.
SNOOP_MODE_MODELS = (63, 79)


def check_sockets(topology: Topology) -> Iterator[Finding]:
    """What the firmware made of the sockets: one node for all, one each, or several each."""
    subject, homes = "NUMA nodes", [node for node in topology.nodes if node.cores]
    hidden = [node for node in topology.nodes if node.other_packages]
    packages = max(1, len(topology.packages))
    spanning = f"node {format_id_list(node.id for node in hidden)} spans several of the {packages} sockets"
    if hidden and (topology.processor.virtual or not topology.processor.vendor):
        found = f"{spanning}: the guest is not told of the machine's nodes"
        cost = "nothing on a machine of one node; on others the memory of a worker lies anywhere"
        yield Finding("note", subject, found, cost, "give the guest the host's nodes (vNUMA), pinned one to one")
    elif hidden:
        yield Finding(
            "problem",
            subject,
            f"{spanning}: the firmware interleaves memory over them",
            "every second read crosses the sockets; two Xeons read 130 GB/s so, and some 200 with two nodes",
            "firmware: Node Interleaving disabled (on EPYC: NPS1 or more)",
        )
    elif len(homes) > MOST_WORKERS:
        yield Finding(
            "warning",
            subject,
            f"{len(homes)} nodes with cores, but at most {MOST_WORKERS} workers",
            f"{1 - MOST_WORKERS / len(homes):.0%} of the cores and of the memory bandwidth stay idle",
            'firmware: fewer nodes per socket (NPS4 or less, "L3 cache as NUMA domain" disabled)',
        )
    else:
        yield from _check_division(topology, homes, packages)
    processor = topology.processor
    if packages > 1 and _is_xeon(processor) and processor.model in SNOOP_MODE_MODELS:
        yield Finding(
            "note",
            "snoop mode",
            "Xeon E5 v3 or v4: the firmware's snoop mode decides how fast memory is, and cannot be read here",
            "decode on two E5 v4 went from 12 to 35 tokens/s with it",
            "firmware: Home Directory with OSB; compare the measured bandwidth",
        )


def _check_division(topology: Topology, homes: list[Node], packages: int) -> Iterator[Finding]:
    per_package, subject = len(homes) / packages, "NUMA nodes"
    cores = sum(len(node.cores) for node in homes) / packages
    mode = _mode_name(topology.processor)
    sockets = "1 socket" if packages == 1 else f"{packages} sockets"
    found = f"{len(homes)} on {sockets}: one worker each"
    if per_package == 1 and mode and cores >= LEAST_CORES_TO_DIVIDE and not topology.processor.virtual:
        yield Finding(
            "note",
            subject,
            f"{found}; the firmware may be able to divide the sockets further ({mode})",
            "with more nodes every worker reads the memory channels next to it; worth a measurement",
            f"firmware: {mode}; then compare numoe doctor's bandwidth and decode",
        )
    else:
        yield Finding("ok", subject, found)


def _is_xeon(processor: Processor) -> bool:
    return processor.vendor == "GenuineIntel" and processor.family == 6 and "Xeon" in processor.name


def _mode_name(processor: Processor) -> str:
    """What the setting is called that divides a socket; "" for processors without one."""
    if "EPYC" in processor.name and processor.family >= 0x17:
        return "NPS2 or NPS4"
    if _is_xeon(processor) and processor.model >= 85:  # Skylake and later
        return "sub-NUMA clustering, SNC"
    return ""


def check_memory_of_nodes(topology: Topology) -> Iterator[Finding]:
    """Nodes that have no memory, only memory, or less than others."""
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
            f"workers own equal parts: models up to {len(sizes) * min(sizes.values()) / GIBIBYTE:.0f} GiB fit instead "
            f"of {sum(sizes.values()) / GIBIBYTE:.0f}; empty slots may also be idle memory channels",
            "the same DIMMs in the same slots of every socket",
        )
    elif len(sizes) > 1 and not bare:
        yield Finding("ok", subject, f"even: {len(sizes)} nodes of {largest / GIBIBYTE:.0f} GiB")


def check_page_cache(root: Path, topology: Topology, needed: Mapping[int, int]) -> Iterator[Finding]:
    """File pages that crowd one node; `needed` are the bytes that a model's plan wants, by node."""
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
    """Whether a model's plan fits the memory of the nodes it uses."""
    for node_id, wanted in sorted(needed.items()):
        node = topology.node(node_id)
        text = f"node {node_id} needs {wanted / GIBIBYTE:.1f} GiB for weights and KV cache"
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
