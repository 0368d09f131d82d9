"""One glance at the engine: its state and its counts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EngineState(StrEnum):
    """What the engine does with requests that come now: only a serving one takes them."""

    SERVING = "serving"
    RESTARTING = "restarting"
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """State and counts at one moment."""

    state: EngineState
    running: int
    queued: int
    kv_blocks_used: int
    kv_blocks: int
    steps: int  # since the start
    prompt_tokens: int  # run since the start
    generated_tokens: int  # drawn since the start
    restarts: int
