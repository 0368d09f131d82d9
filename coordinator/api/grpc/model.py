"""ModelService: what is served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from numoe.coordinator.api.grpc.calls import Context
from numoe.coordinator.api.served_model import ModelSource
from numoe.model.architectures.spec import ModelSpec
from numoe.model.gguf.tensors import TensorInfo
from numoe.v1 import model_pb2, model_pb2_grpc


class ModelService(model_pb2_grpc.ModelServiceServicer):
    """What is served."""

    def __init__(self, source: ModelSource) -> None:
        self._source = source

    async def GetModel(  # noqa: N802
        self, request: model_pb2.GetModelRequest, context: Context
    ) -> model_pb2.GetModelResponse:
        served = self._source()
        message = model_message(
            served.spec,
            context_tokens=served.limits.context_tokens,
            sequences=served.workers.limits.sequences,
            end_ids=served.tokenizer.end_ids,
            chat_template=served.template is not None,
        )
        return model_pb2.GetModelResponse(model=message)


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
