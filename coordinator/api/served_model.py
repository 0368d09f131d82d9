"""The model that is served, as every door sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from numoe.coordinator.constraints.guides import Guides
from numoe.coordinator.engine.engine import Engine
from numoe.coordinator.requests.request import RequestLimits
from numoe.coordinator.requests.suggested_sampling import AS_LEARNED
from numoe.coordinator.workers.placement import Workers
from numoe.model.architectures.spec import ModelSpec
from numoe.model.chat.formats import PLAIN, Formats
from numoe.model.text.chat_template import ChatTemplate
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.messages import Sampling


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model whose workers are ready, and the engine that feeds them."""

    spec: ModelSpec
    tokenizer: Tokenizer
    template: ChatTemplate | None  # None: the file has none that works
    workers: Workers
    engine: Engine
    guides: Guides  # of grammars that answers obey
    formats: Formats = PLAIN
    suggested_sampling: Sampling = AS_LEARNED  # by the model's makers, where a protocol leaves the choice to a service

    @property
    def limits(self) -> RequestLimits:
        """What a request may ask of this model and these workers."""
        return self.engine.limits


ModelSource = Callable[[], ServedModel]  # raises Unavailable while the model is being loaded
