"""The doctor's checks of what this process may use: cgroup limits, CPUs and nodes, memory policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from numoe.model.doctor.finding import Finding, Level
from numoe.model.machine.cgroups import cpu_quota, memory_limit
from numoe.model.machine.id_lists import format_id_list
from numoe.model.machine.linux_files import labelled_lines, read_text
from numoe.model.machine.memory_policy import PolicyTrial
from numoe.model.machine.topology import Topology
from numoe.model.planning.worker_memory import SERVICE_BYTES

GIBIBYTE = 1 << 30
CAP_SYS_NICE = 23
POLICY_REMEDY = "docker run --cap-add SYS_NICE; Kubernetes: securityContext.capabilities.add [SYS_NICE]"
# Docker's and containerd's profiles let the rest through where a container has SYS_NICE, but move_pages never.
LOOK_REMEDY = (
    "a seccomp profile that allows move_pages: docker run --security-opt seccomp=FILE; Kubernetes: seccompProfile"
)


def check_memory_limit(root: Path, topology: Topology, needed: Mapping[int, int]) -> Iterator[Finding]:
    """Check the cgroup's limit against the machine's memory, and against what a plan needs, in bytes by node id."""
    subject, total = "cgroup memory", sum(node.memory_bytes for node in topology.nodes)
    found = memory_limit(root)
    if found is None or found[0] >= total:
        yield Finding("ok", subject, "no limit below the machine's memory")
        return
    limit, used = found
    wanted = sum(needed.values()) + (SERVICE_BYTES if needed else 0)
    left = max(0, limit - used)
    text = f"limited to {limit / GIBIBYTE:.1f} GiB of {total / GIBIBYTE:.1f}"
    if wanted > left:
        text += f"; {left / GIBIBYTE:.1f} are left and the model needs {wanted / GIBIBYTE:.1f}"
        yield Finding(
            "problem", subject, text, "the kernel kills a worker while it loads", _memory_remedy(wanted + used)
        )
    else:
        yield Finding("note", subject, text, "larger models are killed while they load, whatever the nodes have free")


def _memory_remedy(bytes_: int) -> str:
    return f"a limit above {-(-bytes_ // GIBIBYTE)} GiB: docker run --memory, Kubernetes resources.limits, MemoryMax="


def check_cpu_quota(root: Path, topology: Topology) -> Iterator[Finding]:
    """Check whether the cgroup's CPU time suffices for all cores."""
    subject, cores = "cgroup CPU time", sum(len(node.cores) for node in topology.nodes)
    quota = cpu_quota(root)
    if quota is None:
        yield Finding("ok", subject, "no quota")
    elif quota < cores:
        yield Finding(
            "problem",
            subject,
            f"a quota of {quota:g} CPUs for {cores} cores",
            quota_cost(quota, cores),
            quota_remedy(quota),
        )
    else:
        yield Finding("note", subject, f"a quota of {quota:g} CPUs, enough for {cores} cores")


def quota_cost(quota: float, cores: int) -> str:
    """What a quota costs that is smaller than the number of cores that compute."""
    return (
        "when it is used up all threads stand still until the next period, 100 ms as a rule: at most "
        f"{quota / cores:.0%} of the speed, in jerks"
    )


def quota_remedy(quota: float) -> str:
    """How to do without a quota, or with this one."""
    return (
        "give whole CPUs instead: docker run --cpuset-cpus without --cpus; Kubernetes: static CPU manager policy, "
        "equal whole requests and limits; systemd: AllowedCPUs= without CPUQuota=; or use less of them: "
        f"--threads-per-worker, for at most {max(1, int(quota))} threads in all"
    )


def check_allowed(topology: Topology) -> Iterator[Finding]:
    """Check for CPUs and memory of nodes that exist and may not be used, and for what that leaves."""
    subject = "allowed CPUs and nodes"
    remedy = "numactl, taskset, docker run --cpuset-cpus --cpuset-mems, systemd AllowedCPUs= AllowedMemoryNodes="
    stranded = [node for node in topology.forbidden_nodes if topology.node(node).cores]
    if stranded:
        cores = sum(len(topology.node(node).cores) for node in stranded)
        yield Finding(
            "warning",
            subject,
            f"the memory of node {format_id_list(stranded)} may not be used, its CPUs may",
            f"{cores} cores stay idle, as they would read all weights from another node",
            remedy,
        )
    counts = {node.id: len(node.cores) for node in topology.nodes if node.cores and node.memory_bytes}
    if len(set(counts.values())) > 1:
        yield Finding(
            "warning",
            subject,
            "uneven: " + ", ".join(f"node {node} {count} cores" for node, count in counts.items()),
            "nodes with fewer cores are given less to do, or left idle where they do not help",
            remedy,
        )
    if topology.forbidden_cpus:
        found = f"CPUs {format_id_list(topology.forbidden_cpus)} may not be used (affinity or cpuset)"
        yield Finding("note", subject, found)
    elif not stranded:
        yield Finding("ok", subject, "all CPUs" if not topology.forbidden_nodes else "all CPUs, not all memory")


def policies_refused(root: Path, trial: PolicyTrial | None) -> bool:
    """Whether workers cannot bind their memory: as the trial showed, or without one as a copied tree suggests."""
    if trial is not None:
        return not _blind(trial) and (bool(trial.errors) or trial.lay_on != trial.bound_to)
    status = labelled_lines(read_text(root / "proc/self/status"))
    filtered = status.get("Seccomp", "0") == "2"
    return filtered and not int(status.get("CapEff", "0"), 16) >> CAP_SYS_NICE & 1


def _blind(trial: PolicyTrial) -> bool:
    """Whether memory can be bound, and not be looked at."""
    return [call for call, _ in trial.errors] == ["move_pages"]


def check_policies(root: Path, topology: Topology, trial: PolicyTrial | None) -> Iterator[Finding]:
    """Check whether set_mempolicy, mbind and move_pages work; `trial` is what came of them, None in a copied tree."""
    subject, many = "memory policies", len([node for node in topology.nodes if node.memory_bytes]) > 1
    cost = (
        "memory is then where the threads of a node touched it first, right as long as that node has room, and no proof"
        if many
        else "with one node nothing depends on it"
    )
    level: Level = "warning" if many else "note"
    if trial is None:
        if policies_refused(root, None):
            found = "system calls are filtered and CAP_SYS_NICE is missing: containers then refuse memory policies"
            yield Finding(level, subject, found, cost, POLICY_REMEDY)
        else:
            yield Finding("ok", subject, "nothing speaks against them; not tried in a copied tree")
    elif trial.errors:
        found, remedy = "refused: " + ", ".join(f"{call} ({error})" for call, error in trial.errors), POLICY_REMEDY
        if _blind(trial):
            remedy = LOOK_REMEDY
            cost = "workers are bound, and no page of theirs can be looked at or moved: no proof" if many else cost
        yield Finding(level, subject, found, cost, remedy)
    elif trial.lay_on != trial.bound_to:
        found = f"a page bound to node {trial.bound_to} lies on node {trial.lay_on}"
        yield Finding("problem", subject, found, "weights are not where their worker is", POLICY_REMEDY)
    else:
        found = f"set_mempolicy, mbind and move_pages work; a page bound to node {trial.bound_to} lies there"
        yield Finding("ok", subject, found)
