"""Flags that several commands share, or that are too many to stand in a signature."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from numoe.coordinator.settings import (
    DEFAULT_ADDRESS,
    EngineSettings,
    ListenSettings,
    ServeSettings,
    WorkerSettings,
)

if TYPE_CHECKING:  # protobuf and numpy take longer to import than most commands run
    from numoe.model.made_up.synthetic import SyntheticShape
    from numoe.v1.generation_pb2 import Sampling, Stopping

# A flag is called --address, not --settings.listen.address. Said here, so that settings.py knows of no command line.
for _settings in (ServeSettings, ListenSettings, WorkerSettings, EngineSettings):
    Parameter(name="*")(_settings)

Shape = Literal["qwen3moe", "llama", "qwen3-30b-a3b", "qwen3-235b-a22b"]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """Which service to ask."""

    address: Annotated[str, Parameter(env_var="NUMOE_ADDRESS")] = DEFAULT_ADDRESS
    """Where the service listens."""
    timeout_seconds: float | None = None
    """Give up after this long. Default: never."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class CallOptions(ServiceOptions):
    """Which service to ask, and how to draw."""

    max_tokens: int | None = None
    """Most tokens to generate. Default: what fits the context."""
    stop: tuple[str, ...] | None = None
    """A text that ends the answer; may be given several times."""
    temperature: float | None = None
    """0 always takes the likeliest token; higher is more varied. Default: 0."""
    top_k: int | None = None
    """Draw among this many likeliest tokens; 0 is all. Default: all."""
    top_p: float | None = None
    """Draw among the likeliest tokens that have this probability together. Default: all."""
    min_p: float | None = None
    """Draw among tokens at least this times as likely as the likeliest. Default: all."""
    repetition_penalty: float | None = None
    """Above 1: makes tokens less likely that occurred in prompt or answer. Default: none."""
    seed: int | None = None
    """The same seed gives the same answer. Default: another one each time."""

    def sampling(self) -> Sampling:
        """What was said of drawing; the rest is left to the service."""
        from numoe.v1.generation_pb2 import Sampling

        return Sampling(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
        )

    def stopping(self) -> Stopping:
        from numoe.v1.generation_pb2 import Stopping

        return Stopping(max_tokens=self.max_tokens, stop=self.stop or ())


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class ShapeOptions:
    """The shape of a model with random weights; what is not said is as in --shape."""

    shape: Shape | None = None
    """Write random weights in this shape: a small model of an architecture, or a real model's sizes."""
    layers: int | None = None
    """Layers."""
    width: int | None = None
    """Values of a hidden state."""
    query_heads: int | None = None
    """Query heads."""
    kv_heads: int | None = None
    """Key and value heads."""
    head_size: int | None = None
    """Values of a head."""
    experts: int | None = None
    """Experts of a layer; 1 is a dense model (llama only)."""
    active_experts: int | None = None
    """Experts that run for each token."""
    expert_width: int | None = None
    """Values between the two halves of an expert."""
    vocabulary: int | None = None
    """Token ids."""
    context_length: int | None = None
    """Longest context."""
    type: str | None = None
    """Type of the weights, or the mix of types that files of such a name have: BF16, Q8_0, Q4_K_M. Default: Q8_0."""
    pure: bool = False
    """All matrices of the type that most matrices of --type have."""
    weights_seed: int = 0
    """The same seed gives the same file."""
    header_only: bool = False
    """Leave the weights out: the file has a hole of their size, takes no disk, and serves to plan with."""

    def synthetic(self) -> SyntheticShape | None:
        """The shape that was asked for; None: none was."""
        from numoe.model.made_up.synthetic import PRESETS, SyntheticShape
        from numoe.model.made_up.type_mixes import named

        if self.shape is None:
            return None
        start = PRESETS.get(self.shape) or SyntheticShape()
        if self.shape == "llama":
            start = replace(start, architecture="llama")
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        sizes = {name: value for name, value in said.items() if value is not None and hasattr(start, name)}
        if self.type is not None:
            sizes["type"], mix = named(self.type.upper())
            sizes["mix"] = "" if self.pure else mix
        return replace(start, **sizes)
