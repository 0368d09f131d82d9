"""The doctor's checks of Linux: page balancing, huge pages, reclaim, swap, hardware threads, CPU frequency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from numoe.model.doctor.finding import Finding
from numoe.model.machine.linux_files import chosen, meminfo_bytes, read_number, read_text
from numoe.model.machine.shared_pages import GIVEN_AT_TOUCH, shared_setting
from numoe.model.machine.topology import Topology

MEBIBYTE, GIBIBYTE = 1 << 20, 1 << 30
SWAP_NOISE_BYTES = 64 * MEBIBYTE  # pages that nothing has touched since the start of the machine
THP = "sys/kernel/mm/transparent_hugepage"
# Drivers whose "powersave" follows the load; with every other one it means the lowest frequency there is.
SCALING_DRIVERS = ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")


def check_balancing(topology: Topology, policies_refused: bool) -> Iterator[Finding]:
    """Check automatic NUMA balancing; `policies_refused`: workers cannot bind their memory, or may not be able to."""
    subject = "NUMA balancing"
    if not topology.numa_balancing or len(topology.nodes) < 2:
        yield Finding("ok", subject, "off" if not topology.numa_balancing else "on, with one node nothing to balance")
        return
    yield Finding(
        "warning" if policies_refused else "note",
        subject,
        "kernel.numa_balancing is on: the kernel unmaps pages in turn to see who touches them, and moves them",
        "weights that are not bound are moved while they are read, and every look costs a page fault"
        if policies_refused
        else "pages bound to a node, as a worker's are, are left alone; other programs' faults disturb",
        "sysctl -w kernel.numa_balancing=0",
    )


def check_huge_pages(root: Path) -> Iterator[Finding]:
    """Check whether transparent huge pages are on and made on demand."""
    subject, enabled = "huge pages", chosen(read_text(root / THP / "enabled"))
    cost = "weights on pages of 4 KiB; decode on 2 MiB pages was 12 % faster on a Xeon 6980P, alike on a Ryzen 7950X"
    remedy = "echo madvise > /" + THP
    defrag = chosen(read_text(root / THP / "defrag"))
    if enabled == "never":
        yield Finding("warning", subject, "transparent huge pages are off", cost, f"{remedy}/enabled")
    elif enabled == "unknown":
        yield Finding("note", subject, "this kernel has no transparent huge pages", cost)
    elif defrag in ("never", "defer"):
        found = f"{enabled}, but defrag is {defrag}: where free memory is in pieces, huge pages are not made for us"
        yield Finding("note", subject, found, "part of the weights may lie on 4 KiB pages", f"{remedy}/defrag")
    else:
        yield Finding("ok", subject, f"transparent huge pages: {enabled}, defrag {defrag}")


def check_shared_pages(root: Path, given: bool | None) -> Iterator[Finding]:
    """Check whether weights that outlive their worker lie on huge pages; `given`: what a trial says, None: no trial."""
    subject, setting = "kept weights", shared_setting(root)
    if given or setting in GIVEN_AT_TOUCH:
        how = "at once" if setting in GIVEN_AT_TOUCH else "on demand (MADV_COLLAPSE)"
        yield Finding("ok", subject, f"shared memory gets huge pages {how}; shmem_enabled is {setting}")
    elif given is not None:
        yield Finding(
            "note",
            subject,
            f"shared memory gets no huge pages: shmem_enabled is {setting}, and asking for them is refused",
            "no keeper is started, so a lost worker reads weights again; with --keeper on it decodes a tenth slower",
            f"echo advise > /{THP}/shmem_enabled",
        )


def check_reclaim(root: Path, topology: Topology) -> Iterator[Finding]:
    """Check whether a full node throws its page cache away; finds nothing where it does not."""
    mode = read_number(root / "proc/sys/vm/zone_reclaim_mode")
    if mode and len(topology.nodes) > 1:
        yield Finding(
            "warning",
            "zone reclaim",
            f"vm.zone_reclaim_mode is {mode}: a full node throws away its page cache before it borrows from another",
            "the model's file is read from disk again and again while it is loaded",
            "sysctl -w vm.zone_reclaim_mode=0",
        )


def check_swap(root: Path) -> Iterator[Finding]:
    """Check whether memory is swapped out."""
    memory = meminfo_bytes(read_text(root / "proc/meminfo"))
    used = memory.get("SwapTotal", 0) - memory.get("SwapFree", 0)
    if used > SWAP_NOISE_BYTES:
        yield Finding(
            "warning",
            "swap",
            f"{used / GIBIBYTE:.1f} GiB are swapped out: memory is or was short",
            "a weight that was swapped out comes back at the disk's speed, a hundredth of memory's or less",
            "end what takes the memory, then swapoff -a && swapon -a; sysctl -w vm.swappiness=1",
        )
    else:
        yield Finding("ok", "swap", "none" if not memory.get("SwapTotal") else "not in use")


def check_hardware_threads(topology: Topology) -> Iterator[Finding]:
    """Say how many hardware threads a core has, and how many of them numoe uses."""
    siblings = max((len(core) for node in topology.nodes for core in node.cores), default=0)
    cores = sum(len(node.cores) for node in topology.nodes)
    if siblings > 1:
        found = f"{siblings} per core; numoe runs one thread on each of the {cores} cores and leaves the siblings idle"
    else:
        found = f"one per core, {cores} in all"
    yield Finding("ok", "hardware threads", found)


def check_frequency(root: Path) -> Iterator[Finding]:
    """Check the governor of the CPUs and, for drivers that follow the load, the preference that they are given."""
    folders = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    if not folders:
        yield Finding("ok", "CPU frequency", "not controlled by this kernel (a virtual machine, or the firmware does)")
        return
    names = ("scaling_governor", "scaling_driver", "energy_performance_preference")
    states = Counter(tuple(read_text(folder / name) for name in names) for folder in folders)
    findings = []
    for (governor, driver, preference), count in states.items():
        of_all = "" if count == len(folders) else f" on {count} of {len(folders)} CPUs"
        findings.append(_judge_frequency(root, governor, driver, preference, of_all))
    slow = [finding for finding in findings if finding.level != "ok"]
    yield from slow or findings[:1]


def _judge_frequency(root: Path, governor: str, driver: str, preference: str, of_all: str) -> Finding:
    subject, remedy = "CPU frequency", "cpupower frequency-set -g performance"
    if driver in SCALING_DRIVERS:
        if preference in ("power", "balance_power"):
            found = f"{driver} prefers {preference}{of_all}: cores are slow to speed up"
            cost = "prompts lose what the clock loses; decode less, as memory bounds it"
            return Finding("warning", subject, found, cost, "cpupower set --epp performance; or " + remedy)
        return Finding("ok", subject, f"{governor} ({driver}{', ' + preference if preference else ''})")
    if governor == "powersave":
        folder = root / "sys/devices/system/cpu/cpu0/cpufreq"
        low, high = (read_number(folder / f"cpuinfo_{end}_freq") for end in ("min", "max"))
        share = f"; {low / 1e6:.1f} of {high / 1e6:.1f} GHz" if low and high else ""
        found = f"the governor is powersave{of_all}: the lowest frequency, always{share}"
        cost = f"prompts at {low / high:.0%} of the speed" if low and high else "prompts at a part of the speed"
        return Finding("problem", subject, found, cost, remedy)
    if governor in ("performance", ""):
        return Finding("ok", subject, f"{governor or 'no governor'} ({driver or 'no driver'})")
    found = f"the governor is {governor}{of_all}: the clock follows the load"
    return Finding("note", subject, found, "the first steps after a pause are slower", remedy)
