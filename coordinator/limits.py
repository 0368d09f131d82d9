"""How much one step may hold, by an operator's settings and the model: the workers' memory is laid out for it."""

from __future__ import annotations

from numoe.coordinator.settings import EngineSettings, context_tokens, kv_tokens
from numoe.protos.messages import StepLimits

BLOCK_POSITIONS = 64  # of a KV block: the kernels are built for it


def step_limits(settings: EngineSettings, model_context_tokens: int) -> StepLimits:
    """What the workers' memory is laid out for."""
    return StepLimits(
        step_tokens=settings.step_tokens,
        sequences=min(settings.sequences, settings.step_tokens),
        context_tokens=context_tokens(settings, model_context_tokens),
        kv_blocks=-(-kv_tokens(settings, model_context_tokens) // BLOCK_POSITIONS),
        block_positions=BLOCK_POSITIONS,
    )
