"""What is served, put together: the file's model, tokenizer and template, the workers that hold it, the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from numoe.coordinator.engine.engine import Engine
from numoe.coordinator.engine.requests import RequestLimits
from numoe.coordinator.machine.model_file import read_model
from numoe.coordinator.machine.planning import plan_this_machine
from numoe.coordinator.settings import ServeSettings
from numoe.coordinator.workers.placement import LoadProgress, Workers
from numoe.model.architectures.spec import ModelSpec
from numoe.model.text.chat_template import ChatTemplate
from numoe.model.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model whose workers are ready, and the engine that feeds them."""

    spec: ModelSpec
    tokenizer: Tokenizer
    template: ChatTemplate | None  # None: the file has none that works
    workers: Workers
    engine: Engine

    @property
    def limits(self) -> RequestLimits:
        return self.engine.limits


Loader = Callable[[LoadProgress], ServedModel]


def load_model(path: Path, settings: ServeSettings, progress: LoadProgress) -> ServedModel:
    """Read the file, start the workers and load them; minutes for large models. Raises SetupError or ServiceError."""
    # Ray takes seconds to import: only a server pays for that, after everything that can be refused has been looked at.
    spec, tokenizer, template = read_model(path)
    shards = plan_this_machine(spec, settings)
    from numoe.coordinator.workers.group import start_workers

    workers = start_workers(model_path=path, spec=spec, plan=shards, settings=settings, progress=progress)
    timeout = settings.workers.step_timeout_seconds
    engine = Engine(workers, tokenizer, settings.engine, step_timeout_seconds=timeout)
    return ServedModel(spec, tokenizer, template, workers, engine)
