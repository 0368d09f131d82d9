"""Fewer experts than the model has active."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExpertReduction:
    """Smart expert reduction (ik_llama.cpp's -ser): which of the A most probable experts of a token are run.

    The `fewest` most probable always are; of the others those at least `threshold` times as probable as the first.
    Those that are run share the weight of all.
    """

    fewest: int = 1  # A or more: off
    threshold: float = 0.0  # 0: off; 1: only what is as probable as the first


ALL_EXPERTS = ExpertReduction()
