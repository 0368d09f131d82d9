"""Draws steps as a router would make them: which experts are active, and which worker computes each.

The seed is fixed, so that the same arguments give the same steps. Every token's choices are drawn by systematic
sampling in a random order (Madow 1949): just A experts, each as often as was counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from numoe.model.planning.expert_owners import ExpertOwners

COLUMNS_OF_PANELS = 13  # as in the kernels: reading an expert takes as long as so many columns of it

Counts = NDArray[np.int64]


def draw_steps(
    shares: NDArray[np.float64],  # [L, E] how much of a layer's choices each expert gets; rows add up to 1
    active: int,  # A
    batch: int,  # tokens of a step
    steps: int,  # S
    seed: int = 0,
) -> Counts:  # [L, S, E] tokens that chose each expert
    """Draw how many tokens choose each expert in each step; tokens choose independently of each other."""
    random = np.random.default_rng(seed)
    layers, experts = shares.shape
    counts = np.zeros((layers, steps, experts), np.int64)
    chance = _chances(shares, active)
    for _ in range(batch):
        order = np.argsort(random.random((layers, steps, experts), np.float32), axis=-1)
        ends = np.cumsum(np.take_along_axis(chance[:, np.newaxis, :], order, axis=-1), axis=-1)
        ends[..., -1] = active  # as rounding may not leave it
        passed = np.floor(ends + random.random((layers, steps, 1)))
        chosen = np.diff(passed, axis=-1, prepend=0.0) > 0
        into = np.zeros((layers, steps, experts), np.int64)
        np.put_along_axis(into, order, chosen.astype(np.int64), axis=-1)
        counts += into
    return counts


def _chances(shares: NDArray[np.float64], active: int) -> NDArray[np.float64]:  # [L, E]
    """How likely a token chooses each expert: at most 1, and A summed over the experts of a layer."""
    chance = shares * active
    for _ in range(shares.shape[1]):
        over = chance > 1.0
        if not over.any():
            break
        chance = np.minimum(chance, 1.0)
        free = np.where(chance < 1.0, chance, 0.0)
        missing = active - chance.sum(axis=1, keepdims=True)
        chance += free * missing / np.maximum(free.sum(axis=1, keepdims=True), 1e-300)
    return chance


def holders_of(owners: Sequence[ExpertOwners], workers: int) -> NDArray[np.bool_]:  # [L, E, W]
    """A table of which worker holds which expert."""
    holders = np.zeros((len(owners), len(owners[0].workers), workers), np.bool_)
    for layer, one in enumerate(owners):
        for expert, some in enumerate(one.workers):
            holders[layer, expert, list(some)] = True
    return holders


def assign(counts: Counts, holders: NDArray[np.bool_]) -> NDArray[np.int64]:  # [L, S, E]
    """The worker that computes each active expert, -1 for the others, as assign_experts of the kernels chooses it."""
    layers, steps, _ = counts.shape
    active, several = counts > 0, holders.sum(axis=-1) > 1
    loads = np.where(active, COLUMNS_OF_PANELS + counts, 0)
    alone = holders & ~several[..., np.newaxis]
    owners = np.where(active & ~several[:, np.newaxis, :], np.argmax(alone, axis=-1)[:, np.newaxis, :], -1)
    carried = loads.astype(np.float64) @ alone.astype(np.float64)  # [L, S, W]
    shared = active & several[:, np.newaxis, :]
    turns = int(shared.sum(axis=-1).max(initial=0))
    if turns:
        order = np.argsort(np.where(shared, -counts, 1), axis=-1, kind="stable")
    layer, step = np.ogrid[:layers, :steps]
    for turn in range(turns):
        expert = order[..., turn]
        real = shared[layer, step, expert]
        best = np.argmin(np.where(holders[layer, expert], carried, np.inf), axis=-1)
        owners[layer, step, expert] = np.where(real, best, owners[layer, step, expert])
        carried[layer, step, best] += np.where(real, loads[layer, step, expert], 0)
    return owners
