"""How the layers of a model are shared out over hosts that run them one after the other.

Hosts work at once on steps of different requests, so what counts is the host that takes longest; one stream alone goes
through all of them, and is as fast on several hosts as on one only where one alone has not the memory. A host's time
for a layer is its predicted time for the whole model in the proportion of the layer's bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from numoe.protos.errors import PlanError

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class HostForecast:
    """What a host says of itself."""

    alone: float  # seconds of a step of the whole model, one sequence
    batched: float  # the same, as many sequences as were wished
    batch: int
    room: int  # bytes of memory
    fixed: int  # bytes beside weights and KV cache: processes, buffers
    nodes: int  # NUMA nodes that would compute
    cores: int


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """What there is to share out, in bytes."""

    layers: tuple[int, ...]  # [L] weights and KV cache of each
    embedding: int  # of the first host
    output: int  # of the last host, which every step reads


@dataclass(frozen=True, slots=True)
class HostLayers:
    """Who runs what, and how fast that is predicted to be."""

    starts: tuple[int, ...]  # [hosts] the first layer of each
    seconds: tuple[float, ...]  # [hosts] of each host's part of a step, batched
    alone: float  # tokens per second of one stream
    batched: float  # of as many streams as were wished, or more
    one_host: int | None  # which host alone would be faster for one stream, as it holds all; None: none does


def share_layers(model: LayerBytes, hosts: Sequence[HostForecast]) -> HostLayers:
    """Share all layers out, in the order of hosts, so that the slowest is as fast as can be.

    Raises:
        PlanError: there are fewer layers than hosts, or too little memory.
    """
    count = len(model.layers)
    if len(hosts) > count:
        raise PlanError(f"hosts: found {len(hosts)} for {count} layers, expected at least a layer for each")
    before = [0, *accumulate(model.layers)]
    read = before[-1] + model.output

    def bytes_of(host: int, start: int, stop: int) -> int:
        ends = (model.embedding if start == 0 else 0) + (model.output if stop == count else 0)
        return before[stop] - before[start] + ends + hosts[host].fixed

    def seconds_of(host: int, start: int, stop: int, step: float) -> float:
        return step * (before[stop] - before[start] + (model.output if stop == count else 0)) / read

    # best[stop] of the hosts so far: the least time of the slowest, and where the last of them begins.
    best: list[list[tuple[float, int]]] = [[(0.0 if stop == 0 else float("inf"), 0) for stop in range(count + 1)]]
    for host, forecast in enumerate(hosts):
        row = [(float("inf"), 0)] * (count + 1)
        for stop in range(host + 1, count + 1):
            for start in range(host, stop):
                if bytes_of(host, start, stop) <= forecast.room:
                    slowest = max(best[host][start][0], seconds_of(host, start, stop, forecast.batched))
                    row[stop] = min(row[stop], (slowest, start))
        best.append(row)
    if best[-1][count][0] == float("inf"):
        raise PlanError(_no_room(model, hosts))
    cuts = [count]
    for host in range(len(hosts), 0, -1):
        cuts.append(best[host][cuts[-1]][1])
    cuts.reverse()
    return price_layers(model, hosts, tuple(cuts[:-1]))


def price_layers(model: LayerBytes, hosts: Sequence[HostForecast], starts: tuple[int, ...]) -> HostLayers:
    """How fast hosts are predicted to be whose layers begin there."""
    count, read = len(model.layers), sum(model.layers) + model.output
    shares = [sum(model.layers[start:stop]) / read for start, stop in pairwise((*starts, count))]
    shares[-1] += model.output / read
    seconds = tuple(host.batched * share for host, share in zip(hosts, shares, strict=True))
    alone = sum(host.alone * share for host, share in zip(hosts, shares, strict=True))
    whole = sum(model.layers) + model.embedding + model.output
    holding = [host for host in range(len(hosts)) if whole + hosts[host].fixed <= hosts[host].room]
    faster = min(holding, key=lambda host: hosts[host].alone, default=None)
    if faster is not None and hosts[faster].alone >= alone:
        faster = None
    return HostLayers(starts, seconds, 1 / alone, hosts[0].batch / max(seconds), faster)


def _no_room(model: LayerBytes, hosts: Sequence[HostForecast]) -> str:
    needed = sum(model.layers) + model.embedding + model.output + sum(host.fixed for host in hosts)
    room = sum(host.room for host in hosts)
    found = f"hosts: the model needs {needed / GIB:.1f} GiB on {len(hosts)} hosts, which have {room / GIB:.1f} GiB"
    return f"{found}; lower the context, add a host, or choose a smaller model"
