"""One glance at the engine: its state, its counts, and the requests that are open."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EngineState(StrEnum):
    """What the engine does with requests that come now: a serving one takes them, a restarting one lets them wait."""

    SERVING = "serving"
    RESTARTING = "restarting"
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class BlockSharing:
    """What requests have of each other's KV blocks; counts since the start."""

    cached_blocks: int = 0  # that nobody holds, and anybody may take over, now
    cached_tokens: int = 0  # of prompts, that had not to be run
    evicted_blocks: int = 0  # of those that anybody might have taken over, for want of room
    preemptions: int = 0  # of requests that gave their blocks back to others


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
    rejected: int = 0  # requests that found no room, since the start
    kv_blocks_reserved: int = 0  # for all that is known of the requests at work and one more each, the used among them
    sharing: BlockSharing = BlockSharing()
    step_began_at: float | None = None  # time.monotonic() when the step under way began; None: there is none


class RequestPhase(StrEnum):
    """Where a request is."""

    QUEUED = "queued"
    PREFILL = "prefill"  # its prompt is being run
    DECODE = "decode"
    RESUMING = "resuming"  # workers were lost, and what they had run of it is run again


@dataclass(frozen=True, slots=True)
class RequestStatus:
    """An open request at one moment; times are those of time.monotonic()."""

    request_id: str
    client: str  # who asked, as the door knows it; "": unknown
    phase: RequestPhase
    prompt_tokens: int
    prompt_done: int  # of them, run through the model
    drawn: int  # tokens of the answer so far
    most_drawn: int  # that it may have
    submitted_at: float
    first_token_at: float  # 0: not drawn yet
    last_token_at: float
    slot: int | None = None  # in which it is at work; None: it waits
