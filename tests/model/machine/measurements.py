"""Measurements of bandwidth that tests make up."""

from __future__ import annotations

from numoe.model.machine.bandwidth import Bandwidth, Read, cores_of_nodes
from numoe.model.machine.topology import Topology


def measured(topology: Topology, *rows: tuple[float, ...]) -> Bandwidth:
    """GB/s from each node's cores (rows) to each node's memory (columns)."""
    reads = [Read(row, column, rate * 1e9) for row, rates in enumerate(rows) for column, rate in enumerate(rates)]
    return Bandwidth(topology.processor.name, "2026-01-02 03:04", cores_of_nodes(topology), tuple(reads))
