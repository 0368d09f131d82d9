"""What is served, put together: the file's model, tokenizer and template, the workers that hold it, the engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from numoe.coordinator.api.served_model import ServedModel
from numoe.coordinator.engine.engine import Engine
from numoe.coordinator.machine.planning import planned
from numoe.coordinator.progress import LoadProgress
from numoe.coordinator.settings import KV_TYPES, ServeSettings, kv_tokens
from numoe.model.architectures.reading import model_spec
from numoe.model.architectures.spec import ModelSpec
from numoe.model.doctor.process_limits import quota_cost, quota_remedy
from numoe.model.gguf.model_file import open_gguf
from numoe.model.machine.cgroups import cpu_quota
from numoe.model.machine.topology_reading import read_topology
from numoe.model.planning.plan import ShardPlan
from numoe.model.planning.plan_checks import check_placement
from numoe.model.text.chat_template import ChatTemplate
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.errors import UnsupportedModel

_log = structlog.get_logger()


def load_model(path: Path, settings: ServeSettings, progress: LoadProgress) -> ServedModel:
    """Read the file, start the workers and load them; minutes for large models. Raises SetupError or ServiceError."""
    # Ray takes seconds to import: only a server pays for that, after everything that can be refused has been looked at.
    spec, tokenizer, template = read_model(path)
    shards = shard_plan(spec, settings)
    from numoe.coordinator.workers.starting import start_workers

    workers = start_workers(spec=spec, plan=shards, settings=settings, progress=progress)
    timeout = settings.workers.step_timeout_seconds
    engine = Engine(workers, tokenizer, settings.engine, step_timeout_seconds=timeout)
    return ServedModel(spec, tokenizer, template, workers, engine)


def read_spec(path: Path) -> ModelSpec:
    """The model's sizes; no weight is read."""
    return model_spec(open_gguf(path))


def read_model(path: Path) -> tuple[ModelSpec, Tokenizer, ChatTemplate | None]:
    """What the file's metadata say, checked; no weight is read."""
    file = open_gguf(path)
    spec = model_spec(file)
    tokenizer = Tokenizer.from_metadata(file.metadata)
    return spec, tokenizer, _template(file.metadata, tokenizer)


def _template(metadata: Mapping[str, Any], tokenizer: Tokenizer) -> ChatTemplate | None:
    """The file's template; a broken one only costs the service its Chat."""
    source = metadata.get("tokenizer.chat_template")
    if not isinstance(source, str) or not source:
        return None
    try:
        bos, eos = (_token_text(metadata, tokenizer, name) for name in ("bos", "eos"))
        return ChatTemplate(source, bos_token=bos, eos_token=eos)
    except UnsupportedModel as error:
        _log.warning("no_chat", reason=str(error))
        return None


def _token_text(metadata: Mapping[str, Any], tokenizer: Tokenizer, name: str) -> str:
    token_id = metadata.get(f"tokenizer.ggml.{name}_token_id")
    return "" if token_id is None else tokenizer.token_bytes(int(token_id), control=True).decode(errors="replace")


def shard_plan(spec: ModelSpec, settings: ServeSettings) -> ShardPlan:
    """The operator's plan where there is one, else a new one for this machine; checked against its memory."""
    topology = read_topology()
    shards = planned(spec, topology, settings).plan
    positions = kv_tokens(settings.engine, spec.context_length)
    check_placement(shards, spec, topology, positions, KV_TYPES[settings.engine.kv_type])
    warn_of_quota(shards, Path("/"))
    return shards


def warn_of_quota(shards: ShardPlan, root: Path) -> None:
    """Log that the process may not use the plan's cores all the time."""
    quota, cores = cpu_quota(root), len({cpu for shard in shards.shards for cpu in shard.cpus})
    if quota is not None and quota < cores:
        _log.warning(
            "cpu_quota_too_small",
            found=f"a cgroup quota of {quota:g} CPUs",
            expected=f"none, or at least {cores}, as many as the workers compute on",
            cost=quota_cost(quota, cores),
            mend=quota_remedy(quota),
        )
