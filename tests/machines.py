"""Machines that are not at hand: writes the /sys and /proc files of a described one into a folder, as Linux would.

The formats are the kernel's: a description of the recorded machine gives its files to the byte (test_machines.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from numoe.model.machine.id_lists import format_id_list

KIB_PER_GIB = 1 << 20
NODE_FIELDS = (
    "MemTotal", "MemFree", "MemUsed", "SwapCached", "Active", "Inactive", "Active(anon)",
    "Inactive(anon)", "Active(file)", "Inactive(file)", "Unevictable", "Mlocked", "Dirty", "Writeback",
    "FilePages", "Mapped", "AnonPages", "Shmem", "KernelStack", "PageTables", "SecPageTables",
    "NFS_Unstable", "Bounce", "WritebackTmp", "KReclaimable", "Slab", "SReclaimable", "SUnreclaim",
    "AnonHugePages", "ShmemHugePages", "ShmemPmdMapped", "FileHugePages", "FilePmdMapped",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chip:
    """The processor's model, and the caches of one of its cores."""

    name: str
    vendor: Literal["GenuineIntel", "AuthenticAMD"]
    family: int
    model: int
    level1_kib: int
    level2_kib: int
    level3_kib: int
    cores_per_level3: int = 0  # 0: one for the package
    flags: str = "fpu vme sse2 avx2"


XEON_6138 = Chip(
    "Intel(R) Xeon(R) Gold 6138 CPU @ 2.00GHz",
    "GenuineIntel",
    6,
    85,
    32,
    1024,
    28160,
    flags="fpu vme sse2 avx2 avx512f avx512bw avx512vl",
)
XEON_6238 = Chip(
    "Intel(R) Xeon(R) Gold 6238 CPU @ 2.10GHz", "GenuineIntel", 6, 85, 32, 1024, 30976,
    flags="fpu vme sse2 avx2 avx512f avx512bw avx512vl avx512_vnni",
)  # fmt: skip
XEON_8480 = Chip("Intel(R) Xeon(R) Platinum 8480+", "GenuineIntel", 6, 143, 32, 2048, 107520)
VNNI = "fpu vme sse2 avx2 avx512f avx512bw avx512vl avx512_vnni"
EPYC_9354 = Chip(
    "AMD EPYC 9354 32-Core Processor", "AuthenticAMD", 25, 17, 32, 1024, 32768, cores_per_level3=4, flags=VNNI
)
EPYC_9755 = Chip(
    "AMD EPYC 9755 128-Core Processor", "AuthenticAMD", 26, 2, 48, 1024, 32768, cores_per_level3=8, flags=VNNI
)


@dataclass(frozen=True, slots=True)
class Machine:
    """Packages of nodes of cores. Memory of a node with CPUs is 95 % free unless `free_gib` says otherwise."""

    chip: Chip
    packages: int
    nodes_per_package: int  # 0: one node for all packages, as firmware makes it that interleaves memory over sockets
    cores_per_node: int
    threads_per_core: int
    memory_gib: tuple[int, ...]  # per node with CPUs; one number stands for all
    memory_only_gib: tuple[int, ...] = ()  # further nodes without CPUs: CXL, attached to the packages in turn
    near: int = 12  # distance inside a package
    far: int = 21  # distance between packages
    # How the firmware numbers the CPUs: every core's first thread before the second ones (most machines), siblings
    # one after the other, or nodes in turn (0, 2, 4 .. on node 0), then the second threads.
    numbering: Literal["siblings last", "siblings adjacent", "nodes in turn"] = "siblings last"
    free_gib: tuple[int, ...] = ()
    page_cache_gib: tuple[int, ...] = ()

    @property
    def cpu_nodes(self) -> int:
        return max(1, self.packages * self.nodes_per_package)

    @property
    def cores(self) -> int:
        return self.cpu_nodes * self.cores_per_node

    @property
    def nodes(self) -> int:
        return self.cpu_nodes + len(self.memory_only_gib)

    def cpu(self, core: int, thread: int) -> int:
        """The number of a core's thread; cores are counted node by node."""
        if self.numbering == "siblings adjacent":
            return core * self.threads_per_core + thread
        node, index = divmod(core, self.cores_per_node)
        first = index * self.cpu_nodes + node if self.numbering == "nodes in turn" else core
        return first + thread * self.cores

    def core_cpus(self, cores: range) -> list[int]:
        return sorted(self.cpu(core, thread) for core in cores for thread in range(self.threads_per_core))

    def node_cpus(self, node: int) -> list[int]:
        return self.core_cpus(range(node * self.cores_per_node, (node + 1) * self.cores_per_node))

    def package_of_core(self, core: int) -> int:
        return core * self.packages // self.cores

    def package_of_node(self, node: int) -> int:
        if node >= self.cpu_nodes:
            return (node - self.cpu_nodes) % self.packages
        return self.package_of_core(node * self.cores_per_node)

    def distance(self, node: int, other: int) -> int:
        """Firmware's relative latency; memory behind CXL is a few steps farther than a package's own."""
        if node == other:
            return 10
        beyond = 4 if max(node, other) >= self.cpu_nodes else 0
        return beyond + (self.near if self.package_of_node(node) == self.package_of_node(other) else self.far)


ONE_SOCKET = Machine(XEON_6138, 1, 1, 20, 2, (192,))
TWO_XEON_6138 = Machine(XEON_6138, 2, 1, 20, 2, (192,))
TWO_XEON_6138_IN_TURN = Machine(XEON_6138, 2, 1, 20, 2, (384,), numbering="nodes in turn")
SNC4_ONE_SOCKET = Machine(XEON_8480, 1, 4, 14, 2, (128,))
SNC4_TWO_SOCKETS = Machine(XEON_8480, 2, 4, 14, 2, (128,))
NPS4_ONE_SOCKET = Machine(EPYC_9354, 1, 4, 8, 2, (96,))
TWO_EPYC_9755_NPS4 = Machine(EPYC_9755, 2, 4, 32, 2, (192,), far=32)
CXL = Machine(XEON_8480, 2, 1, 56, 2, (512,), memory_only_gib=(256,))


def write_machine(root: Path, machine: Machine) -> Path:
    """Write the machine's files below `root`, and return it."""
    every = format_id_list(range(machine.cores * machine.threads_per_core))
    for name in ("online", "possible", "present"):
        write(root, f"sys/devices/system/cpu/{name}", every)
    for core in range(machine.cores):
        for thread in range(machine.threads_per_core):
            _write_cpu(root, machine, core, thread)
    folder, nodes = "sys/devices/system/node", format_id_list(range(machine.nodes))
    for name in ("online", "possible", "has_memory", "has_normal_memory"):
        write(root, f"{folder}/{name}", nodes)
    write(root, f"{folder}/has_cpu", format_id_list(range(machine.cpu_nodes)))
    for node in range(machine.nodes):
        _write_node(root, machine, node)
    _write_kernel(root, machine)
    return root


def write(root: Path, name: str, text: str) -> None:
    """One small file, its line ended as the kernel does."""
    path, line = root / name, text if text.endswith("\n") else text + "\n"
    try:
        path.write_text(line)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line)


def restrict(root: Path, cpus: str, nodes: str, *, seccomp: int = 0, capabilities: int = (1 << 41) - 1) -> None:
    """Say in /proc/self/status what the process may do: CPUs, memory nodes, filtered calls, capabilities."""
    lines = {"Name": "numoe", "CapEff": f"{capabilities:016x}", "Seccomp": str(seccomp)}
    lines |= {"Cpus_allowed_list": cpus, "Mems_allowed_list": nodes}
    write(root, "proc/self/status", "".join(f"{name}:\t{value}\n" for name, value in lines.items()))


def set_governor(root: Path, governor: str, driver: str, preference: str | None = None) -> None:
    """Give every CPU a frequency control, 1.0 to 3.7 GHz."""
    for folder in (root / "sys/devices/system/cpu").glob("cpu[0-9]*"):
        name = f"{folder.relative_to(root)}/cpufreq"
        write(root, f"{name}/scaling_governor", governor)
        write(root, f"{name}/scaling_driver", driver)
        write(root, f"{name}/cpuinfo_min_freq", "1000000")
        write(root, f"{name}/cpuinfo_max_freq", "3700000")
        if preference is not None:
            write(root, f"{name}/energy_performance_preference", preference)


def _write_cpu(root: Path, machine: Machine, core: int, thread: int) -> None:
    cpu, chip = machine.cpu(core, thread), machine.chip
    folder = f"sys/devices/system/cpu/cpu{cpu}"
    per_package = machine.cores // machine.packages
    siblings = machine.core_cpus(range(core, core + 1))
    if cpu:  # the first cannot be taken offline
        write(root, f"{folder}/online", "1")
    if thread:  # siblings share all that is said below: links halve the files of large machines
        for name in ("topology", "cache"):
            (root / folder / name).symlink_to(f"../cpu{machine.cpu(core, 0)}/{name}")
        return
    write(root, f"{folder}/topology/physical_package_id", str(machine.package_of_core(core)))
    write(root, f"{folder}/topology/core_id", str(core % per_package))
    write(root, f"{folder}/topology/thread_siblings_list", format_id_list(siblings))
    # With sub-NUMA clusters too the kernel shows one last-level cache for the package, as the processor enumerates it.
    sharing = chip.cores_per_level3 or per_package
    first = core // sharing * sharing
    shared = machine.core_cpus(range(first, first + sharing))
    caches = (
        (1, "Data", chip.level1_kib, siblings),
        (1, "Instruction", 32, siblings),
        (2, "Unified", chip.level2_kib, siblings),
        (3, "Unified", chip.level3_kib, shared),
    )
    for index, (level, kind, kib, cpus) in enumerate(caches):
        write(root, f"{folder}/cache/index{index}/level", str(level))
        write(root, f"{folder}/cache/index{index}/type", kind)
        write(root, f"{folder}/cache/index{index}/size", f"{kib}K")
        write(root, f"{folder}/cache/index{index}/shared_cpu_list", format_id_list(cpus))


def _write_node(root: Path, machine: Machine, node: int) -> None:
    folder, has_cpus = f"sys/devices/system/node/node{node}", node < machine.cpu_nodes
    write(root, f"{folder}/cpulist", format_id_list(machine.node_cpus(node)) if has_cpus else "")
    write(root, f"{folder}/distance", " ".join(str(machine.distance(node, to)) for to in range(machine.nodes)))
    write_node_memory(root, node, *_node_memory(machine, node))
    for name in ("nr_hugepages", "free_hugepages"):
        write(root, f"{folder}/hugepages/hugepages-2048kB/{name}", "0")


def _node_memory(machine: Machine, node: int) -> tuple[int, int, int]:
    """kB in all, free, and of page cache."""
    sizes = (machine.memory_gib * machine.cpu_nodes)[: machine.cpu_nodes]
    total = (sizes + machine.memory_only_gib)[node] * KIB_PER_GIB
    free = machine.free_gib[node] * KIB_PER_GIB if machine.free_gib else total * 95 // 100
    cached = machine.page_cache_gib[node] * KIB_PER_GIB if machine.page_cache_gib else total // 100
    return total, free, cached


def write_node_memory(root: Path, node: int, total_kib: int, free_kib: int, cached_kib: int) -> None:
    """A node's meminfo."""
    known = {"MemTotal": total_kib, "MemFree": free_kib, "MemUsed": total_kib - free_kib, "FilePages": cached_kib}
    lines = []
    for name in NODE_FIELDS:
        width = 15 if name in ("FileHugePages", "FilePmdMapped") else 16  # as the kernel's own columns
        lines.append(f"Node {node} {f'{name}:':<{width}}{known.get(name, 0):>8} kB\n")
    lines += [f"Node {node} HugePages_{name + ':':<6}{0:>6}\n" for name in ("Total", "Free", "Surp")]
    write(root, f"sys/devices/system/node/node{node}/meminfo", "".join(lines))


def _write_kernel(root: Path, machine: Machine) -> None:
    memories = [_node_memory(machine, node) for node in range(machine.nodes)]
    total, free, cached = (sum(column) for column in zip(*memories, strict=True))
    fields = {"MemTotal": total, "MemFree": free, "MemAvailable": free + cached, "Cached": cached}
    fields |= {"SwapTotal": 8 * KIB_PER_GIB, "SwapFree": 8 * KIB_PER_GIB}
    write(root, "proc/meminfo", "".join(f"{f'{name}:':<16}{value:>8} kB\n" for name, value in fields.items()))
    write(root, "proc/sys/kernel/numa_balancing", "0")
    write(root, "proc/sys/vm/zone_reclaim_mode", "0")
    write(root, "sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
    write(root, "sys/kernel/mm/transparent_hugepage/defrag", "always defer defer+madvise [madvise] never")
    chip = machine.chip
    named = (
        ("vendor_id", chip.vendor),
        ("cpu family", chip.family),
        ("model\t", chip.model),
        ("model name", chip.name),
    )
    block = "".join(f"{name}\t: {value}\n" for name, value in (*named, ("flags\t", chip.flags)))
    cpus = range(machine.cores * machine.threads_per_core)
    write(root, "proc/cpuinfo", "".join(f"processor\t: {cpu}\n{block}\n" for cpu in cpus))
