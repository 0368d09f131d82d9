"""What `numoe plan --hosts` shows: which host runs which layers, whether they fit, and how fast that should be."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from numoe.coordinator.commands.tables.figures import human_bytes, human_count, ruled_table
from numoe.model.planning.prediction.host_layers import HostForecast, HostLayers, LayerBytes


def describe_hosts(
    hosts: Sequence[str], forecasts: Sequence[HostForecast], sizes: LayerBytes, layers: HostLayers
) -> RenderableType:
    """Tabulate each host's layers, time and memory, then the rates of all together."""
    count, batch = len(sizes.layers), forecasts[0].batch
    table = ruled_table("hosts", "host", "nodes", "cores", "layers", "ms a step", "needs", "has")
    ends = [*layers.starts[1:], count]
    for host, one, start, stop, seconds in zip(hosts, forecasts, layers.starts, ends, layers.seconds, strict=True):
        needed = sum(sizes.layers[start:stop]) + one.fixed
        needed += (sizes.embedding if start == 0 else 0) + (sizes.output if stop == count else 0)
        place = (host, str(one.nodes), str(one.cores), f"{start}-{stop - 1}", f"{1e3 * seconds:.2f}")
        table.add_row(*place, human_bytes(needed), human_bytes(one.room))
    many = human_count(batch * len(hosts), "stream") if len(hosts) > 1 else human_count(batch, "stream")
    lines = [
        f"Predicted: {layers.alone:.3g} tokens/s for one stream, {layers.batched:.3g} for {many} or more.",
        "One stream goes through all hosts in turn; the exchange between two takes some 1 ms of each step.",
    ]
    if layers.one_host is not None:
        alone = 1 / forecasts[layers.one_host].alone
        lines.append(f"{hosts[layers.one_host]} alone would make {alone:.3g} tokens/s of one stream: it holds all.")
    return Group(table, *map(Text, lines))
