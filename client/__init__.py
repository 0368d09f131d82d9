"""A client of numoe's gRPC service, in Python: `Client` and `AsyncClient`, with plain typed data both ways.

The one room whose names are gathered here, as others than we import them. Nothing of the service is imported.
"""

from numoe.client.async_client import AsyncClient
from numoe.client.client import Client
from numoe.client.events import (
    Accepted,
    Alternative,
    Answer,
    Delta,
    Event,
    Finished,
    PromptProgress,
    PromptTokens,
    Resumed,
    StopMatch,
    Timings,
    Token,
    ToolCallDelta,
    Usage,
    whole,
)
from numoe.client.failures import CallFailed
from numoe.client.models import Model, TensorTypeShare
from numoe.client.questions import (
    Breakers,
    ChatMessage,
    Choice,
    Conversation,
    Dry,
    ExpertReduction,
    Guided,
    Settings,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
)

__all__ = [
    "Accepted",
    "Alternative",
    "Answer",
    "AsyncClient",
    "Breakers",
    "CallFailed",
    "ChatMessage",
    "Choice",
    "Client",
    "Conversation",
    "Delta",
    "Dry",
    "Event",
    "ExpertReduction",
    "Finished",
    "Guided",
    "Model",
    "PromptProgress",
    "PromptTokens",
    "Resumed",
    "Settings",
    "StopMatch",
    "TensorTypeShare",
    "Thinking",
    "Timings",
    "Token",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolChoice",
    "Usage",
    "whole",
]
