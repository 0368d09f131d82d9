"""Between the messages of numoe.v1 and the engine's own dataclasses, field by field."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypedDict

from numoe.coordinator.api.grpc.status import reason_of, status_of
from numoe.coordinator.engine import requests
from numoe.coordinator.workers.placement import Placement, WorkerPlacement
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorInfo
from numoe.model.planning.expert_owners import ExpertOwners
from numoe.model.planning.plan import Range
from numoe.protos.errors import InvalidRequest, NumoeError
from numoe.protos.locality import Locality, NodeBytes
from numoe.protos.messages import Sampling
from numoe.v1 import generation_pb2, model_pb2, placement_pb2

REQUEST_ID_CHARACTERS = 128

_FINISH_REASONS = {
    requests.FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    requests.FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
}
_WORKER_STATES = {
    "starting": placement_pb2.WORKER_STATE_STARTING,
    "loading": placement_pb2.WORKER_STATE_LOADING,
    "ready": placement_pb2.WORKER_STATE_READY,
    "lost": placement_pb2.WORKER_STATE_LOST,
}
_STOPPING_FIELDS = ("max_tokens", "min_tokens", "stop", "stop_token_ids")


class EventFields(TypedDict, total=False):
    """The one field of GenerateResponse.event or ChatResponse.event that an engine event fills."""

    accepted: generation_pb2.Accepted
    prompt_progress: generation_pb2.PromptProgress
    delta: generation_pb2.Delta
    finished: generation_pb2.Finished
    failed: generation_pb2.Failed


def generation_request(
    request: generation_pb2.GenerateRequest | generation_pb2.ChatRequest, prompt: tuple[int, ...], deadline: float
) -> requests.GenerationRequest:
    """What the engine is asked, with every absent field at its documented default."""
    stopping = request.stopping
    return requests.GenerationRequest(
        request_id=_request_id(request.request_id),
        prompt=prompt,
        sampling=_sampling(request.sampling),
        max_tokens=stopping.max_tokens if stopping.HasField("max_tokens") else None,
        min_tokens=stopping.min_tokens,
        stop=tuple(stopping.stop),
        stop_token_ids=frozenset(stopping.stop_token_ids),
        ignore_eos=stopping.ignore_eos,
        include_stop=stopping.include_stop,
        deadline=deadline,
    )


def _request_id(given: str) -> str:
    if len(given) > REQUEST_ID_CHARACTERS or not (given.isascii() and given.isprintable()):
        raise InvalidRequest("request_id", f"expected at most {REQUEST_ID_CHARACTERS} printable ASCII characters")
    return given or secrets.token_hex(8)


def _sampling(given: generation_pb2.Sampling) -> Sampling:
    return Sampling(
        temperature=given.temperature,
        top_k=given.top_k,
        top_p=given.top_p if given.HasField("top_p") else 1.0,
        min_p=given.min_p,
        repetition_penalty=given.repetition_penalty if given.HasField("repetition_penalty") else 1.0,
        frequency_penalty=given.frequency_penalty,
        presence_penalty=given.presence_penalty,
        seed=given.seed if given.HasField("seed") else secrets.randbits(64),
    )


def client_field(error: InvalidRequest, prompt_field: str) -> InvalidRequest:
    """The same fault under the path that the field has in the client's message."""
    root = error.field.partition("[")[0]
    field = error.field
    if root in _STOPPING_FIELDS:
        field = f"stopping.{error.field}"
    elif root == "prompt":
        field = prompt_field + error.field.removeprefix("prompt")
    return InvalidRequest(field, str(error).removeprefix(f"{error.field}: "))


def event_fields(
    event: requests.Accepted | requests.PromptProgress | requests.Delta | requests.Finished,
    request: requests.GenerationRequest,
    max_tokens: int,
    *,
    logprobs: bool,
) -> EventFields:
    """The message of one event of `request`, which may draw `max_tokens`."""
    match event:
        case requests.Accepted():
            accepted = generation_pb2.Accepted(
                queue_position=event.queue_position,
                estimated_wait_seconds=event.estimated_wait_seconds,
                prompt_tokens=len(request.prompt),
                max_tokens=max_tokens,
                seed=request.sampling.seed,
            )
            return {"accepted": accepted}
        case requests.PromptProgress():
            return {"prompt_progress": generation_pb2.PromptProgress(done_tokens=event.done, total_tokens=event.total)}
        case requests.Delta():
            return {"delta": _delta(event, logprobs=logprobs)}
        case requests.Finished():
            return {"finished": _finished(event)}


def failed_fields(error: NumoeError) -> EventFields:
    """The terminal message of a generation that ended with `error`; the call's status will say the same."""
    status = status_of(error)
    return {"failed": generation_pb2.Failed(reason=reason_of(status), message=status.message)}


def _delta(event: requests.Delta, *, logprobs: bool) -> generation_pb2.Delta:
    tokens = (
        generation_pb2.Token(id=token_id, logprob=logprob if logprobs else None)
        for token_id, logprob in zip(event.token_ids, event.logprobs, strict=True)
    )
    return generation_pb2.Delta(text=event.text, tokens=tokens)


def _finished(event: requests.Finished) -> generation_pb2.Finished:
    usage, timings = event.usage, event.timings
    stop = None
    if isinstance(event.stop_match, str):
        stop = generation_pb2.StopMatch(text=event.stop_match)
    elif event.stop_match is not None:
        stop = generation_pb2.StopMatch(token_id=event.stop_match)
    return generation_pb2.Finished(
        reason=_FINISH_REASONS[event.reason],
        stop=stop,
        usage=generation_pb2.Usage(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens),
        timings=generation_pb2.Timings(
            queue_milliseconds=timings.queue_milliseconds,
            prefill_milliseconds=timings.prefill_milliseconds,
            decode_milliseconds=timings.decode_milliseconds,
            prefill_tokens_per_second=timings.prefill_tokens_per_second,
            decode_tokens_per_second=timings.decode_tokens_per_second,
        ),
    )


def model_message(
    spec: ModelSpec, *, context_tokens: int, sequences: int, end_ids: Iterable[int], chat_template: bool
) -> model_pb2.Model:
    """The served model, as GetModel tells it."""
    tensors = _distinct_tensors(spec)
    return model_pb2.Model(
        name=spec.name,
        architecture=spec.architecture,
        layers=spec.layers,
        width=spec.width,
        query_heads=spec.query_heads,
        kv_heads=spec.kv_heads,
        head_size=spec.head_size,
        experts=spec.experts,
        active_experts=spec.active_experts,
        expert_width=spec.expert_width,
        vocabulary=spec.vocabulary,
        model_context_tokens=spec.context_length,
        context_tokens=context_tokens,
        sequences=sequences,
        weight_bytes=sum(tensor.bytes for tensor in tensors),
        tensor_types=_type_shares(tensors),
        end_token_ids=sorted(end_ids),
        chat_template=chat_template,
    )


def _distinct_tensors(spec: ModelSpec) -> list[TensorInfo]:
    found = [spec.token_embedding, spec.output_norm, spec.output]
    for layer in spec.layer_tensors:
        values = (getattr(layer, name) for name in layer.__slots__)
        found += [value for value in values if value is not None]
    return list({tensor.name: tensor for tensor in found}.values())  # a tied output is the embedding again


def _type_shares(tensors: list[TensorInfo]) -> list[model_pb2.TensorTypeShare]:
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.type.name] += tensor.bytes
    counts = Counter(tensor.type.name for tensor in tensors)
    return [
        model_pb2.TensorTypeShare(type=name, tensors=counts[name], bytes=size) for name, size in sizes.most_common()
    ]


def placement_message(placement: Placement) -> placement_pb2.GetPlacementResponse:
    """Every worker and its shard."""
    workers = (_worker(worker, placement.experts) for worker in placement.workers)
    return placement_pb2.GetPlacementResponse(split=placement.split, workers=workers)


def _worker(worker: WorkerPlacement, experts: Sequence[ExpertOwners | None]) -> placement_pb2.WorkerPlacement:
    shard = worker.shard
    return placement_pb2.WorkerPlacement(
        worker=shard.worker,
        pid=worker.pid,
        numa_node=shard.node,
        cpus=sorted(set(shard.cpus)),
        threads=len(shard.cpus),
        state=_WORKER_STATES[worker.state],
        shard=placement_pb2.ShardRanges(
            heads=_range(shard.heads),
            kv_heads=_range(shard.kv_heads),
            width_rows=_range(shard.width_rows),
            expert_rows=_range(shard.expert_rows),
            vocabulary=_range(shard.vocabulary),
        ),
        weight_bytes=worker.weight_bytes,
        kv_bytes=worker.kv_bytes,
        locality=None if worker.locality is None else _locality(worker.locality),
        experts=_held(shard.worker, experts),
    )


def _held(worker: int, experts: Sequence[ExpertOwners | None]) -> list[placement_pb2.HeldExperts]:
    layers: dict[tuple[int, ...], list[int]] = {}
    for layer, owners in enumerate(experts):
        if owners is not None:
            layers.setdefault(owners.held_by(worker), []).append(layer)
    return [placement_pb2.HeldExperts(layers=some, experts=held) for held, some in layers.items()]


def _locality(found: Locality) -> placement_pb2.Locality:
    return placement_pb2.Locality(
        binding=found.level,
        problem=found.problem,
        threads=found.threads,
        threads_inside=found.threads_inside,
        moved_bytes=found.moved_bytes,
        layers=map(_on_nodes, found.layers),
        vocabulary=_on_nodes(found.vocabulary),
        kv=_on_nodes(found.kv),
        arena=_on_nodes(found.arena),
    )


def _on_nodes(part: NodeBytes) -> placement_pb2.MemoryOnNodes:
    nodes = (placement_pb2.NodeBytes(numa_node=node, bytes=count) for node, count in part.items())
    return placement_pb2.MemoryOnNodes(nodes=nodes)


def _range(owned: Range) -> placement_pb2.HalfOpenRange:
    return placement_pb2.HalfOpenRange(start=owned.start, end=owned.stop)
