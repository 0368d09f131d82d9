"""How fast the machine is, as far as a prediction needs to know: as measured, as the operator says, or guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from numoe.model.gguf.tensors import TensorType
from numoe.model.machine.bandwidth import Bandwidth
from numoe.model.machine.processor import Instructions
from numoe.model.machine.topology import Topology
from numoe.protos.errors import PlanError

GIGA = 1e9
GUESSED = "guessed from the number of cores"  # the source of such speeds
# Where nothing was measured: servers read 4 to 6 GB/s per core when all cores read (20 cores of a Xeon Gold 6138 about
# 105 GB/s), small machines more per core, and no node more than its memory channels give.
GUESSED_CORE_BANDWIDTH, LEAST_GUESS, MOST_GUESS = 5 * GIGA, 20 * GIGA, 400 * GIGA
REFERENCE_PEAK = 1e12  # integer operations per second of the core that STREAM_RATES was measured on
# Of other cores, by their instructions, all calculated. AVX-512 without VNNI: two instructions for one, two a cycle, at
# 1.9 GHz when all cores use them; AVX2: half as wide at 3.3 GHz, one product a cycle; AVX-VNNI: one for one, half as
# wide at 3.5 GHz.
PEAKS: Mapping[Instructions, float] = MappingProxyType(
    {"avx512vnni": REFERENCE_PEAK, "avx512": 0.24e12, "avxvnni": 0.45e12, "avx2": 0.21e12, "": REFERENCE_PEAK}
)
# Cores that are told apart by vendor, family and model: Skylake-SP and Cascade Lake, which came under the same number
# with VNNI, at 1.9 GHz, calculated; Zen 2, calculated, and Zen 3, measured, which multiply twice in a cycle.
OTHER_PEAKS: Mapping[tuple[str, int, int, Instructions], float] = MappingProxyType(
    {
        ("GenuineIntel", 6, 85, "avx512vnni"): 0.49e12,
        ("GenuineIntel", 6, 85, ""): 0.24e12,
        ("AuthenticAMD", 23, 49, "avx2"): 0.35e12,
        ("AuthenticAMD", 25, 1, "avx2"): 0.36e12,
    }
)

# Bytes per second at which one core computes with one column of activations from its caches, at REFERENCE_PEAK: a
# worker streams no faster than its cores compute. Measured on a Zen 5 core with AVX-512 VNNI; those marked * were not,
# and stand for formats of the same bits and meaning.
STREAM_RATES: Mapping[TensorType, float] = MappingProxyType(
    {
        TensorType.F32: 100 * GIGA,  # *
        TensorType.F16: 60 * GIGA,  # *
        TensorType.BF16: 60 * GIGA,  # *
        TensorType.Q8_0: 85 * GIGA,
        TensorType.Q6_K: 58 * GIGA,
        TensorType.Q5_K: 50 * GIGA,  # *
        TensorType.Q5_0: 50 * GIGA,  # *
        TensorType.Q5_1: 50 * GIGA,  # *
        TensorType.Q4_K: 47 * GIGA,
        TensorType.Q4_0: 47 * GIGA,  # *
        TensorType.Q4_1: 47 * GIGA,  # *
        TensorType.IQ4_XS: 42 * GIGA,
        TensorType.IQ4_NL: 42 * GIGA,  # *
        TensorType.MXFP4: 42 * GIGA,  # *
        TensorType.Q3_K: 30 * GIGA,
        TensorType.Q2_K: 25 * GIGA,
    }
)
TOGETHER = 8  # threads that wait for each other first, see worker/placing/thread_groups.py
NEIGHBOURS = 4  # groups of those that do so next
TILE_SHARE = 0.6  # of the integer peak that tiles of 8 and 16 columns reach: 600 to 660 GOP/s of 1,000
FLOATS_SHARE = 0.25  # of the integer peak that floats reach: one product where integers have four


@dataclass(frozen=True, slots=True)
class Speeds:
    """What a machine's memory and cores can do at most."""

    node_bandwidth: Mapping[int, float]  # bytes per second that a node's cores read from its own memory, by node id
    source: str  # where node_bandwidth is from, for people
    core_bandwidth: float = 25 * GIGA  # bytes per second that one core reads alone, at most
    integer_peak: float = REFERENCE_PEAK  # operations per second of one core
    # A word that went from one process to another and back took 0.17 us on a quiet machine, 1.4 us on a busy one.
    gather_seconds: float = 1.0e-6
    # Threads of one worker wait for each other: two took 0.36 us on a Zen 5 processor that other programs used, one
    # 0.03. Each more of a group of at most TOGETHER moves the line of its count once more: 40 ns inside a cache; each
    # group moves the line of the groups, from cache to cache: 100 ns. Both from what others measured.
    barrier_seconds: float = 0.28e-6
    arrival_seconds: float = 0.04e-6  # of a thread
    group_seconds: float = 0.1e-6  # of a group, where there are several
    waits: tuple[tuple[int, float], ...] = ()  # threads, from few to many, and seconds: as measured, instead of these
    # Bytes per second that one core reads of what another worker has just written: a cache line between sockets takes
    # 0.13 to 0.45 us, and a core waits for ten to twenty at once.
    link_bandwidth: float = 4 * GIGA
    # Bytes per second that one node's cores read from another node's memory, where that was measured.
    far_bandwidth: Mapping[tuple[int, int], float] = field(default_factory=dict)
    # Bytes per second at which one core multiplies one column, of the types for which that was measured.
    core_streams: Mapping[TensorType, float] = field(default_factory=dict)
    # Of the shorter of a core's reading and computing: what does not happen while the other does, where measured.
    not_overlapped: Mapping[TensorType, float] = field(default_factory=dict)

    def read_rate(self, cores_of: int, memory_of: int) -> float:
        """Bytes per second that the cores of one node read from the memory of one node."""
        own = self.node_bandwidth.get(memory_of, LEAST_GUESS)
        return own if cores_of == memory_of else self.far_bandwidth.get((cores_of, memory_of), own)

    def wait_seconds(self, threads: int) -> float:
        """Seconds until so many threads of one worker know that all have come: as measured, beyond that calculated."""
        if threads == 1:
            return 0.0
        if not self.waits:
            return self._calculated_wait(threads)
        (most, last), counts = self.waits[-1], [team for team, _ in self.waits]
        if threads <= most:
            return float(np.interp(threads, counts, [seconds for _, seconds in self.waits]))
        return last + self._calculated_wait(threads) - self._calculated_wait(most)

    def _calculated_wait(self, threads: int) -> float:
        groups = -(-threads // TOGETHER)
        between = 0.0
        if groups > 1:  # a word for a few, and one for these: see kernels/threads/team.py
            between = self.group_seconds * (min(groups, NEIGHBOURS) + (groups > NEIGHBOURS) * -(-groups // NEIGHBOURS))
        return self.barrier_seconds + self.arrival_seconds * -(-threads // groups) + between

    def stream_rate(self, type_: TensorType) -> float:
        """Bytes of weights of a type per second with which one core multiplies one column."""
        return self.core_streams.get(type_) or STREAM_RATES[type_] * self.integer_peak / REFERENCE_PEAK

    def tile_rate(self, type_: TensorType) -> float:
        """Operations per second of one core that multiplies weights of a type with many columns."""
        share = FLOATS_SHARE if type_ in (TensorType.F32, TensorType.F16, TensorType.BF16) else 1.0
        return TILE_SHARE * share * self.integer_peak


def guessed_speeds(topology: Topology) -> Speeds:
    """Guess bandwidths from the number of cores: right to a factor of two at best."""
    guess = {
        node.id: min(max(GUESSED_CORE_BANDWIDTH * len(node.cores), LEAST_GUESS), MOST_GUESS) for node in topology.nodes
    }
    return Speeds(guess, GUESSED, integer_peak=_peak(topology))


def measured_speeds(topology: Topology, measured: Bandwidth) -> Speeds:
    """Take bandwidths as measured, and guess those of nodes that were not measured."""
    rates = {**guessed_speeds(topology).node_bandwidth, **measured.local}
    far = {(read.cores_of, read.memory_of): read.bytes_per_second for read in measured.reads}
    source = f"measured at {measured.measured_at}"
    waits = () if measured.waits is None else tuple((team.threads, team.barrier) for team in measured.waits.teams)
    return Speeds(rates, source, integer_peak=_peak(topology), far_bandwidth=far, waits=waits)


def told_speeds(topology: Topology, bandwidth: Sequence[float]) -> Speeds:
    """Take bandwidths, in GB/s, as the operator says: one for all nodes, or one for each. Raises PlanError."""
    ids = [node.id for node in topology.nodes]
    each = list(bandwidth) * len(ids) if len(bandwidth) == 1 else list(bandwidth)
    if len(each) != len(ids) or min(each) <= 0:
        expected = f"one number above 0 for all nodes, or {len(ids)}, one for each"
        raise PlanError(f"bandwidth: found {list(bandwidth)}, expected {expected}, in GB/s")
    rates = {node: rate * GIGA for node, rate in zip(ids, each, strict=True)}
    return Speeds(rates, "as told", integer_peak=_peak(topology))


def _peak(topology: Topology) -> float:
    """Operations per second of one core, by the processor's numbers and flags."""
    processor = topology.processor
    known = (processor.vendor, processor.family, processor.model, processor.instructions)
    return OTHER_PEAKS.get(known, PEAKS[processor.instructions])
