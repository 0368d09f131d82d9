"""Where workers run: a NUMA node for the memory of each, and a CPU for each of its threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.topology import Node, Topology
from numoe.model.planning.plan import MOST_THREADS, MOST_WORKERS, Spread, split_evenly
from numoe.protos.errors import PlanError

EQUAL_PARTS = "own equal parts"


@dataclass(frozen=True, slots=True)
class Home:
    """Where one worker runs."""

    node: int  # that holds its memory
    cpus: tuple[int, ...]  # one per thread; a CPU stands twice if threads outnumber CPUs
    spread: Spread | None = None  # None: bound to the node, pinned to the CPUs


@dataclass(frozen=True, slots=True)
class _Place:
    """A place for workers: the node that holds their memory and the cores they run on."""

    node: int
    cores: tuple[tuple[int, ...], ...]


def find_homes(
    topology: Topology,
    nodes: tuple[int, ...] | None,
    workers: int | None,
    threads: int | None,
    all_threads: int | None = None,
) -> tuple[tuple[Home, ...], tuple[str, ...]]:
    """A home for each worker, and what an operator should know about them.

    Args:
        topology: the machine.
        nodes: ids of the nodes to use, in the workers' order; None: all.
        workers: how many there are; None: one per node with CPUs and memory, at most MOST_WORKERS. If nodes are more
            than that, a worker runs on the cores of several of one package.
        threads: of each worker; None: one per core.
        all_threads: of all workers together, which have them in proportion to their cores; there are no more workers
            than that. None: as `threads` says.

    Raises:
        PlanError: a number is out of range, or a node is unknown, or no node has a usable CPU.
    """
    places, notes = _find_places(topology, nodes)
    count = min(len(places), MOST_WORKERS, all_threads or MOST_WORKERS) if workers is None else workers
    _check_counts(count, threads, all_threads)
    if len(places) > MOST_WORKERS == count:
        places, merged = _merge(topology, places)
        count, notes = min(count, len(places)), (*notes, *merged)
    settled = _settle(places, count)
    each = [threads] * len(settled) if all_threads is None else _share_threads(settled, all_threads)
    homes = tuple(Home(place.node, _thread_cpus(place.cores, own)) for place, own in zip(settled, each, strict=True))
    return homes, (*notes, *_placement_notes(places, settled), *_thread_notes([home.cpus for home in homes]))


def spread_home(topology: Topology, spread: Spread, threads: int | None) -> tuple[Home, tuple[str, ...]]:
    """The home of a single worker on the cores of all nodes, and what an operator should know about it.

    `threads`: None: one per core, at most MOST_THREADS. Raises PlanError: no node has a usable CPU.
    """
    _check_counts(1, None, threads)
    cores = [core for node in topology.nodes for core in node.cores]
    if not cores:
        raise PlanError("nodes: found none with a usable CPU, expected one or more; widen the affinity or cpuset")
    cpus = _thread_cpus(cores, threads)[:MOST_THREADS]
    return Home(spread.nodes[0], cpus, spread), _thread_notes([cpus])


def _find_places(topology: Topology, ids: tuple[int, ...] | None) -> tuple[tuple[_Place, ...], tuple[str, ...]]:
    """The nodes with both CPUs and memory; failing that, those with CPUs and the nearest memory."""
    nodes = _chosen_nodes(topology, ids)
    places = tuple(_Place(node.id, node.cores) for node in nodes if node.cores and node.memory_bytes)
    if not places:
        places = tuple(_Place(_nearest_memory(topology, node), node.cores) for node in nodes if node.cores)
        if not places:
            raise PlanError("nodes: found none with a usable CPU, expected one or more; widen the affinity or cpuset")
        return places, ("no usable node has both CPUs and memory: workers use the memory of the nearest node",)
    notes = [f"node {node.id} has CPUs but no usable memory: left out" for node in nodes if not node.memory_bytes]
    notes += [f"node {node.id} has memory but no usable CPUs: left out" for node in nodes if not node.cores]
    return places, tuple(notes)


def _merge(topology: Topology, places: Sequence[_Place]) -> tuple[tuple[_Place, ...], tuple[str, ...]]:
    """At most MOST_WORKERS places: neighbours in a package are one, with the memory of the one that has most.

    Where a package has so many nodes they are parts of it ("L3 cache as NUMA domain"), which share its memory channels
    or some of them. *Rejected*: the first nodes alone, which leave sockets idle.
    """
    packages: dict[int | None, list[_Place]] = {}
    for place in places:
        packages.setdefault(topology.node(place.node).package, []).append(place)
    merged = []
    for members in packages.values():
        parts = MOST_WORKERS * len(members) // len(places)
        for part in split_evenly(len(members), 1, parts) if parts else ():
            group = members[part.start : part.stop]
            most = max(group, key=lambda place: topology.node(place.node).available_bytes)
            merged.append(_Place(most.node, tuple(core for place in group for core in place.cores)))
    if not merged:  # more packages than workers: nothing is near anything
        return tuple(places), ()
    unused = format_id_list({place.node for place in places} - {place.node for place in merged})
    return tuple(merged), (
        f"{len(places)} nodes are more than {MOST_WORKERS}, the most workers: {len(merged)} workers run on the cores "
        f"of several nodes of a package, and the memory of node {unused} is not used; numoe doctor says what helps",
    )


def _chosen_nodes(topology: Topology, ids: tuple[int, ...] | None) -> list[Node]:
    if ids is None:
        return list(topology.nodes)
    known = [node.id for node in topology.nodes]
    for node_id in ids:
        if node_id not in known or ids.count(node_id) > 1:
            raise PlanError(
                f"nodes: found {list(ids)}, expected different ones of {known}; `numoe topology` shows them"
            )
    return [topology.node(node_id) for node_id in ids]


def _nearest_memory(topology: Topology, node: Node) -> int:
    memory = [other.id for other in topology.nodes if other.memory_bytes]
    return min(memory, key=lambda other: (topology.distance(node.id, other), other), default=node.id)


def _check_counts(workers: int, threads: int | None, all_threads: int | None) -> None:
    if not 1 <= workers <= MOST_WORKERS:
        raise PlanError(f"workers: found {workers}, expected 1 to {MOST_WORKERS}; choose another number of workers")
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise PlanError(f"threads per worker: found {threads}, expected 1 to {MOST_THREADS}; choose another number")
    if all_threads is not None and not workers <= all_threads <= workers * MOST_THREADS:
        expected = f"{workers} to {workers * MOST_THREADS} for {workers} workers"
        raise PlanError(f"threads: found {all_threads} of all workers together, expected {expected}; change either")


def _share_threads(places: Sequence[_Place], threads: int) -> list[int]:
    """So many threads, shared out by the places' cores; one at least for each."""
    counts = [len(place.cores) for place in places]
    shares = [threads * count / sum(counts) for count in counts]
    cuts = [round(sum(shares[:number])) for number in range(len(shares) + 1)]
    given = [max(1, stop - start) for start, stop in pairwise(cuts)]
    while sum(given) > threads:  # of a place that had to be given its one
        given[given.index(max(given))] -= 1
    return given


def _settle(places: Sequence[_Place], workers: int) -> list[_Place]:
    """A place for each worker: the first places if there are enough, else the places' cores are shared out."""
    if workers <= len(places):
        return list(places[:workers])
    owner = [worker * len(places) // workers for worker in range(workers)]
    settled = []
    for worker, index in enumerate(owner):
        place, sharers, rank = places[index], owner.count(index), worker - owner.index(index)
        cores = place.cores
        if sharers <= len(cores):
            part = split_evenly(len(cores), 1, sharers)[rank]
            settled.append(_Place(place.node, cores[part.start : part.stop]))
        else:  # not even a core each: neighbours share one
            settled.append(_Place(place.node, (cores[rank * len(cores) // sharers],)))
    return settled


def _thread_cpus(cores: Sequence[tuple[int, ...]], threads: int | None) -> tuple[int, ...]:
    """A CPU for each thread: first one of each core, then their SMT siblings, then all again."""
    most_siblings = max(len(core) for core in cores)
    order = [core[turn] for turn in range(most_siblings) for core in cores if turn < len(core)]
    if threads is None:
        return tuple(order[: len(cores)])
    return tuple(order[thread % len(order)] for thread in range(threads))


def _placement_notes(places: Sequence[_Place], settled: Sequence[_Place]) -> tuple[str, ...]:
    if len(settled) < len(places):
        idle = format_id_list(place.node for place in places[len(settled) :])
        return (f"fewer workers ({len(settled)}) than NUMA nodes ({len(places)}): node {idle} stays idle",)
    if len(settled) > len(places):
        return (f"fewer NUMA nodes ({len(places)}) than workers ({len(settled)}): workers share the cores out",)
    return ()


def _thread_notes(cpus: Sequence[tuple[int, ...]]) -> tuple[str, ...]:
    every = [cpu for worker in cpus for cpu in worker]
    if len(set(every)) < len(every):
        return (f"more threads ({len(every)}) than CPUs to run them ({len(set(every))}): threads take turns",)
    if len({len(worker) for worker in cpus}) > 1:
        counts = ", ".join(str(len(worker)) for worker in cpus)
        return (f"workers differ in threads ({counts}) but {EQUAL_PARTS}: the smallest sets the pace",)
    return ()
