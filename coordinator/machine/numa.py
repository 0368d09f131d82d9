"""Turns numactl's words, as llama.cpp's users know them, into what the planner is asked.

    --numa distribute   a worker on every usable node, its memory bound there: the default
    --numa isolate      the same on the node on which the command was started, alone
    --numa numactl      as distribute, but pages lie in turn on several nodes if numactl around the command says so
    --numa none         one worker on the cores of all nodes; no thread is pinned, no page bound
    --interleave NODES  one worker on the cores of all nodes, its threads pinned; pages lie on these nodes in turn
    --cpus, --membind   only these CPUs, only the memory of these nodes

What numactl, taskset and cpusets around the command forbid is forbidden with every one of them: `read_topology` leaves
it out. So a policy that binds memory is kept always, and one that spreads it where the words above leave it to be.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from numoe.coordinator.settings import WorkerSettings
from numoe.model.machine.id_lists import format_id_list, parse_id_list
from numoe.model.machine.topology import Topology
from numoe.model.planning.plan import Spread
from numoe.model.planning.splitting import PlanOptions
from numoe.protos.errors import SetupError
from numoe.protos.foreign_text import one_line

ALL = "all"
SHOWN = 120  # characters of a list in a message


def plan_options(topology: Topology, chosen: WorkerSettings) -> tuple[Topology, PlanOptions]:
    """The part of the machine that the operator leaves to the workers, and what the planner is to do with it.

    Raises:
        SetupError: words contradict each other, or the machine.
    """
    _refuse_contradictions(chosen)
    part = _usable_part(topology, chosen)
    spread = _spread(part, chosen)
    if spread is not None and chosen.workers not in (None, 1):
        raise SetupError(
            f"--workers is {chosen.workers}, and memory that is bound to no single node is one worker's: "
            "leave --workers away, or --numa and --interleave"
        )
    nodes = _own_node(part, topology, chosen) if chosen.numa == "isolate" else chosen.nodes
    if spread is None:
        _refuse_apart(part, chosen)
    options = PlanOptions(
        workers=chosen.workers,
        threads_per_worker=chosen.threads_per_worker,
        nodes=nodes,
        threads=chosen.threads,
        spread=spread,
        notes=tuple(_notes(part, chosen, spread)),
    )
    return part, options


def _refuse_contradictions(chosen: WorkerSettings) -> None:
    numa, interleave = chosen.numa, chosen.interleave is not None
    said = [f"--{name}" for name in ("numa", "cpus", "membind", "interleave", "threads") if getattr(chosen, name)]
    one = "--interleave" if interleave else "--numa none" if numa == "none" else ""
    for contradiction, why in (
        (
            chosen.plan_file is not None and said,
            f"--plan-file says where workers run, {' and '.join(said)} too: leave one away, or edit the file",
        ),
        (
            chosen.threads is not None and chosen.threads_per_worker is not None,
            "--threads counts the threads of all workers together, --threads-per-worker those of each: leave one away",
        ),
        (
            interleave and chosen.membind is not None,
            "--interleave puts pages on nodes in turn, --membind on any of its nodes: leave one away",
        ),
        (
            interleave and numa == "distribute",
            "--numa distribute binds the memory of every worker to its own node, --interleave spreads it over nodes: "
            "leave one away",
        ),
        (
            interleave and numa == "isolate",
            "--numa isolate takes the memory of one node, --interleave that of several in turn: leave one away",
        ),
        (
            interleave and numa == "numactl",
            "--numa numactl takes the nodes from numactl around the command, --interleave names them: leave one away",
        ),
        (
            chosen.nodes is not None and numa == "isolate",
            "--numa isolate takes the node on which the command was started, --nodes names others: leave one away",
        ),
        (
            chosen.nodes is not None and one,
            f"{one} starts one worker on the cores of all nodes, --nodes one on each of its: leave one away; --cpus "
            "says which cores",
        ),
    ):
        if contradiction:
            raise SetupError(why)


def _usable_part(topology: Topology, chosen: WorkerSettings) -> Topology:
    """The machine without what --cpus and --membind leave out."""
    with_memory = [node.id for node in topology.nodes if node.memory_bytes]
    cpus = None if chosen.cpus is None else _ids("cpus", chosen.cpus, topology.cpus)
    memory = None if chosen.membind is None else _ids("membind", chosen.membind, with_memory)
    return topology.restricted(cpus, memory)


def _ids(setting: str, text: str, usable: Collection[int]) -> tuple[int, ...]:
    """The CPUs or nodes that a setting names, all of them usable."""
    if text == ALL:
        return tuple(sorted(usable))
    try:
        ids = parse_id_list(text)
    except ValueError:
        ids = ()
    kind = "CPUs" if setting == "cpus" else "nodes with memory"
    if not ids:
        found = one_line(repr(text), SHOWN)
        raise SetupError(f"--{setting} is {found}, expected numbers of {kind} such as 0-2,8, or {ALL}")
    if missing := set(ids) - set(usable):
        raise SetupError(
            f"--{setting} is {one_line(text, SHOWN)}, and {format_id_list(missing)} may not be used here; expected "
            f"{kind} that are there and that numactl, taskset and cpusets leave, some of {format_id_list(usable)}"
        )
    return ids


def _spread(part: Topology, chosen: WorkerSettings) -> Spread | None:
    """How the memory lies of a worker that is bound to no single node; None: workers are bound to a node each."""
    usable = tuple(node.id for node in part.nodes if node.memory_bytes)
    floating = part.cpus if chosen.numa == "none" else ()
    if chosen.interleave is not None:
        return Spread("interleave", _ids("interleave", chosen.interleave, usable), floating)
    if chosen.numa == "none" and usable:
        return Spread("any" if chosen.membind is None else "bind", usable, floating)
    if chosen.numa == "numactl" and part.policy.kind == "interleave":
        nodes = tuple(node for node in part.policy.nodes if node in usable)
        if not nodes:
            raise SetupError(
                f"--membind leaves none of node {format_id_list(part.policy.nodes)}, over which numactl around the "
                "command interleaves memory: leave one away"
            )
        return Spread("interleave", nodes)
    return None


def _own_node(part: Topology, topology: Topology, chosen: WorkerSettings) -> tuple[int, ...]:
    """The node on which the command was started."""
    cpu = topology.own_cpu
    node = next((node.id for node in topology.nodes if cpu in node.cpus), None)
    if node is None:
        raise SetupError(
            "--numa isolate: /proc/self/stat does not say on which CPU the command was started, or names one that may "
            "not be used; choose the node with --nodes instead"
        )
    started = f"--numa isolate: the command was started on CPU {cpu} of node {node}"
    if not part.node(node).cores:
        raise SetupError(f"{started}, of which --cpus {chosen.cpus} has none; start it there, or leave one away")
    if chosen.membind is not None and not part.node(node).memory_bytes:
        raise SetupError(f"{started}, whose memory --membind {chosen.membind} leaves out; leave one away")
    return (node,)


def _refuse_apart(part: Topology, chosen: WorkerSettings) -> None:
    """Refuse CPUs and memory of different nodes: workers compute with the memory of their own."""
    if chosen.membind is None or any(node.cores and node.memory_bytes for node in part.nodes):
        return
    cores = format_id_list(node.id for node in part.nodes if node.cores)
    raise SetupError(
        f"--membind leaves the memory of node {chosen.membind}, and the CPUs that may be used are of node {cores}: "
        "workers compute with the memory of their own node; change --cpus or --membind, or say --numa none for one "
        "worker that reads from afar"
    )


def _notes(part: Topology, chosen: WorkerSettings, spread: Spread | None) -> Iterator[str]:
    """What an operator should know of what was understood."""
    policy = part.policy
    outside = f"numactl around the command ({policy.kind}: node {format_id_list(policy.nodes)})"
    named = chosen.interleave is not None or (spread is not None and spread.memory == "bind")
    if policy.kind not in ("default", "bind") and not named:
        if spread is None:
            keeps = "numactl" if policy.kind == "interleave" else "none"
            yield f"{outside} is not kept: workers bind their memory to their nodes; --numa {keeps} keeps it"
        else:
            yield f"{outside} is kept"
    if spread is None:
        return
    nodes = format_id_list(spread.nodes)
    if spread.memory == "interleave":
        share = _remote_share(part, spread)
        yield f"one worker, whose pages lie on node {nodes} in turn: {share:.0%} of them is read from another node"
    else:
        yield (
            f"one worker, whose pages lie on node {nodes} where the kernel puts them, which is not predicted: the "
            "speed is that of equal parts on each"
        )
    if spread.floating:
        yield "its threads are not pinned: what they lose by moving is not predicted"


def _remote_share(part: Topology, spread: Spread) -> float:
    """The part of what all cores read that lies on another node than the core that reads it."""
    cores = {node.id: len(node.cores) for node in part.nodes}
    local = sum(cores[node] for node in spread.nodes) / len(spread.nodes)
    return 1 - local / sum(cores.values())
