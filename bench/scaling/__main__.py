"""How speed grows with cores, from one to all: PYTHONPATH=.namespace python3 -m bench.scaling [--layers 4] ...

Needs numpy and numba only, no Ray, no network and no installation: a checkout on any machine. Writes a model of random
weights (Qwen3-30B-A3B's shape, some of its layers, Q4_K_M), measures 1, 2, 4 .. all cores of one NUMA node and then all
of 2, 4 .. all nodes with a worker on each, and writes one JSON file and one picture. It takes some minutes, most of it
compiling.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numba
import numpy as np

from bench.scaling.local_workers import load
from bench.scaling.measuring import Row, measure_cores, measured_latencies, plan_of
from bench.scaling.picture import picture
from numoe.kernels.cpu.instruction_sets import INSTRUCTION_SET
from numoe.model.architectures.reading import model_spec
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.kv_types import HALF_FLOATS
from numoe.model.gguf.model_file import open_gguf
from numoe.model.machine.topology import Topology
from numoe.model.machine.topology_reading import read_topology
from numoe.model.made_up.synthetic import write_synthetic_model
from numoe.model.made_up.synthetic_shape import PRESETS
from numoe.model.made_up.type_mixes import named
from numoe.worker.running.warm import main as compile_kernels

SHAPES = ("qwen3-30b-a3b", "qwen3-235b-a22b")
CACHE_MULTIPLE = 4  # weights are so many times all last-level caches, or what a quarter of the memory holds
LEAST_LAYERS, MOST_LAYERS = 4, 48
HEAD = (
    f"{'cores':>6} {'read GB/s':>10} {'decode/s':>9} {'simulated':>10} {'fill':>6} "
    f"{'prompt/s':>9} {'GOP/s':>8} {'waited':>14} {'claims':>7}"
)


def powers(most: int) -> list[int]:
    """1, 2, 4 .. and `most`."""
    return sorted({*(1 << bit for bit in range(most.bit_length()) if 1 << bit <= most), most})


def rows_of(spec: ModelSpec, topology: Topology) -> Iterator[Row]:
    """Measure all numbers of cores of the first node, then all cores of more and more nodes."""
    latencies = measured_latencies(topology)
    nodes = [node for node in topology.nodes if node.cores and node.memory_bytes]
    cores = len(nodes[0].cores)
    weights = load(spec, plan_of(spec, topology, [nodes[0].id], cores))
    for threads in powers(cores):
        yield measure_cores(spec, plan_of(spec, topology, [nodes[0].id], threads), weights, topology, latencies)
    for count in powers(len(nodes))[1:]:
        plan = plan_of(spec, topology, [node.id for node in nodes[:count]], cores)
        weights = load(spec, plan)
        yield measure_cores(spec, plan, weights, topology, latencies)


def layers_for(topology: Topology, layer_bytes: int) -> int:
    """So many layers that no caches hold them, and memory does."""
    last = max((cache.level for cache in topology.caches), default=0)
    cached = sum(cache.bytes for cache in topology.caches if cache.level == last)
    available = min(node.available_bytes for node in topology.nodes if node.memory_bytes)
    wanted = -(-CACHE_MULTIPLE * cached // layer_bytes)
    return max(LEAST_LAYERS, min(MOST_LAYERS, wanted, available // 4 // layer_bytes))


def line_of(row: Row) -> str:
    """A row of the table."""
    waited = f"{row.decode_waiting:.0%} / {row.prompt_waiting:.0%}"
    simulated, claims = (
        "-" if row.simulated_tokens is None else f"{row.simulated_tokens:.1f}",
        "-" if row.claims is None else str(row.claims),
    )
    return (
        f"{row.cores:>6} {row.read_gigabytes:>10.1f} {row.decode_tokens:>9.1f} {simulated:>10} {row.fill:>6.0%} "
        f"{row.prompt_tokens:>9.0f} {row.prompt_gigaops:>8.0f} {waited:>14} {claims:>7}"
    )


def tell(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure, and write table, file and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default=SHAPES[0])
    parser.add_argument("--layers", type=int, help="of the model; as many as no cache holds if not given")
    parser.add_argument("--output", type=Path, default=Path("scaling.json"), help="a .svg is written beside it")
    given = parser.parse_args()
    topology, started = read_topology(), time.monotonic()
    type_, mix = named("Q4_K_M")
    shape = replace(PRESETS[given.shape], type=type_, mix=mix)
    layer_bytes = shape.experts * 3 * shape.expert_width * shape.width * 5 // 8  # 5 bits a weight
    shape = replace(shape, layers=given.layers or layers_for(topology, layer_bytes))
    title = f"{topology.processor.name or platform.processor()}, {given.shape}, {shape.layers} layers, Q4_K_M"
    tell(f"{title}\ncompiling for {INSTRUCTION_SET.name}")
    with TemporaryDirectory(prefix="numoe-scaling-") as folder:
        path = Path(folder) / "model.gguf"
        write_synthetic_model(path, shape)
        spec = model_spec(open_gguf(path))
        compile_kernels([type_.name for type_ in spec.matrix_types | {*HALF_FLOATS}])
        tell(HEAD)
        rows = []
        for row in rows_of(spec, topology):
            rows.append(row)
            tell(line_of(row))
    machine = {
        "processor": topology.processor.name,
        "instructions": INSTRUCTION_SET.name,
        "nodes": [{"id": node.id, "cores": len(node.cores), "cpus": len(node.cpus)} for node in topology.nodes],
        "caches": sorted({(cache.level, cache.kind, cache.bytes, len(cache.cpus)) for cache in topology.caches}),
        "affinity": len(os.sched_getaffinity(0)),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "numba": numba.__version__},
    }
    found = {"title": title, "machine": machine, "seconds": time.monotonic() - started}
    given.output.write_text(json.dumps({**found, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    drawn = given.output.with_suffix(".svg")
    drawn.write_text(picture(rows, title))
    tell(f"{given.output} and {drawn}, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
