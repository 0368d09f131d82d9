"""What is served, put together: the file's model, tokenizer and template, the workers that hold it, the engine."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from numoe.coordinator.api.served_model import ServedModel
from numoe.coordinator.constraints.guides import Guides
from numoe.coordinator.engine.engine import Engine
from numoe.coordinator.engine.routed_experts import RoutedExperts
from numoe.coordinator.hub.models import FoundModel, fetch_model, find_model, model_heads
from numoe.coordinator.hub.names import HubName
from numoe.coordinator.machine.model_file import read_metadata, read_model
from numoe.coordinator.machine.planning import plan_this_machine
from numoe.coordinator.progress import LoadProgress
from numoe.coordinator.requests.suggested_sampling import suggested_sampling
from numoe.coordinator.settings import ServeSettings
from numoe.coordinator.stages.own_layers import load_layers
from numoe.coordinator.workers.placement import Workers
from numoe.model.architectures.spec import ModelSpec
from numoe.model.chat.formats import find_formats
from numoe.model.planning.plan_size import whole_expert_bytes


def load_model(path: Path | None, settings: ServeSettings, progress: LoadProgress) -> ServedModel:
    """Read the file, start the workers and load them; minutes for large models. Raises SetupError or ServiceError.

    `path`: None where the settings name a packed folder.
    """
    spec, tokenizer, template = read_model(path, settings)
    workers = _start(path, spec, settings, progress)
    timeout = settings.workers.step_timeout_seconds
    experts = routed_experts(spec)
    engine = Engine(workers, tokenizer, settings.engine, experts=experts, step_timeout_seconds=timeout)
    suggested = suggested_sampling(read_metadata(path, settings))
    return ServedModel(spec, tokenizer, template, workers, engine, Guides(tokenizer), find_formats(template), suggested)


def _start(path: Path | None, spec: ModelSpec, settings: ServeSettings, progress: LoadProgress) -> Workers:
    """Workers on this host, or on several."""
    if settings.workers.hosts is not None:
        from numoe.coordinator.stages.starting import start_pipeline

        return start_pipeline(path, spec, settings, progress)
    return load_layers(spec, settings, progress)


def routed_experts(spec: ModelSpec) -> RoutedExperts | None:
    """What the model has of experts to choose among; None: its layers are dense."""
    if not spec.routed:
        return None
    return RoutedExperts(spec.layers, spec.active_experts, fmean(map(whole_expert_bytes, spec.layer_tensors)))


def load_named_model(wanted: HubName, settings: ServeSettings, progress: LoadProgress) -> ServedModel:
    """Fetch a model of a hub where it is not in the cache yet, and load it as `load_model` does.

    What would be refused of it is refused before it is fetched. Raises SetupError or ServiceError.
    """
    found = find_model(wanted, progress)
    if found.missing:
        _check_head(found, settings, progress)
    return load_model(fetch_model(found, progress), settings, progress)


def _check_head(found: FoundModel, settings: ServeSettings, progress: LoadProgress) -> None:
    """Raise SetupError if this machine cannot serve the model, by what its head says."""
    with model_heads(found, progress) as path:
        spec, _, template = read_model(path, settings)
        if template is not None:
            template.close()
        plan_this_machine(spec, settings)
