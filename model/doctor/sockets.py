"""The doctor's checks of what the firmware made of the sockets: one NUMA node for all, one each, or several each."""

from __future__ import annotations

from collections.abc import Iterator

from numoe.model.doctor.finding import Finding
from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.processor import Processor
from numoe.model.machine.topology import Node, Topology
from numoe.model.planning.plan import MOST_WORKERS

LEAST_CORES_TO_DIVIDE = 16  # of a socket: dividing fewer gains little


# Xeon E5 v3 and v4: the firmware's snoop mode decides how fast remote memory is, and nothing shows it.
SNOOP_MODE_MODELS = (63, 79)


def check_sockets(topology: Topology) -> Iterator[Finding]:
    """Check whether memory is interleaved over sockets, and whether sockets have too many or too few nodes."""
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
            f"workers run on the cores of several nodes and use the memory of one: {1 - MOST_WORKERS / len(homes):.0%} "
            "of the memory is not used; where packages are more than workers, their cores are not either",
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
