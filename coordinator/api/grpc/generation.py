"""The gRPC services: protobuf messages in, engine requests; engine events, protobuf messages out. Nothing else.

Guarantees: a refused request raises (the interceptor makes it a status) before any message; an accepted one gets
`accepted` first and exactly one terminal message; whichever way a call ends, its generation is cancelled or over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from grpc.aio import ServicerContext

from numoe.coordinator.api.grpc.messages import (
    EventFields,
    client_field,
    event_fields,
    failed_fields,
    generation_request,
    model_message,
    placement_message,
)
from numoe.coordinator.api.prompts import Turn, decode, encode_conversation, encode_text
from numoe.coordinator.engine.events import Failed
from numoe.coordinator.engine.requests import token_budget
from numoe.coordinator.process.loading import ServedModel
from numoe.coordinator.workers.moves import make_moves, wanted_moves
from numoe.protos.errors import InvalidRequest, UnsupportedModel
from numoe.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc, placement_pb2, placement_pb2_grpc

SERVICE_NAMES = ("numoe.v1.GenerationService", "numoe.v1.ModelService", "numoe.v1.PlacementService")

Served = Callable[[], ServedModel]  # raises Unavailable while there is none
Context = ServicerContext[Any, Any]
Question = generation_pb2.GenerateRequest | generation_pb2.ChatRequest


class GenerationService(generation_pb2_grpc.GenerationServiceServicer):
    """Text from prompts and conversations."""

    def __init__(self, served: Served, request_timeout_seconds: float) -> None:
        self._served = served
        self._request_timeout_seconds = request_timeout_seconds

    async def Generate(  # noqa: N802
        self, request: generation_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        async for request_id, fields in self._answer(request, context):
            yield generation_pb2.GenerateResponse(request_id=request_id, **fields)

    async def Chat(  # noqa: N802
        self, request: generation_pb2.ChatRequest, context: Context
    ) -> AsyncIterator[generation_pb2.ChatResponse]:
        async for request_id, fields in self._answer(request, context):
            yield generation_pb2.ChatResponse(request_id=request_id, **fields)

    async def Tokenize(  # noqa: N802
        self, request: generation_pb2.TokenizeRequest, context: Context
    ) -> generation_pb2.TokenizeResponse:
        tokenizer = self._served().tokenizer
        bos = request.add_bos if request.HasField("add_bos") else True
        ids = await asyncio.to_thread(encode_text, tokenizer, request.text, special=request.parse_special, bos=bos)
        return generation_pb2.TokenizeResponse(ids=ids)

    async def Detokenize(  # noqa: N802
        self, request: generation_pb2.DetokenizeRequest, context: Context
    ) -> generation_pb2.DetokenizeResponse:
        served = self._served()
        _check_ids(request.ids, served.spec.vocabulary)
        return generation_pb2.DetokenizeResponse(text=await asyncio.to_thread(decode, served.tokenizer, request.ids))

    async def _answer(self, question: Question, context: Context) -> AsyncIterator[tuple[str, EventFields]]:
        deadline = self._deadline(context)
        served = self._served()
        prompt = await asyncio.to_thread(_prompt_of, question, served)
        request = generation_request(question, tuple(prompt), deadline)
        try:
            generation = served.engine.submit(request)
        except InvalidRequest as error:
            raise client_field(error, _prompt_field(question)) from error
        # The generator alone would not do: it is not closed at once if the client goes while a message is being sent.
        context.add_done_callback(lambda _: generation.cancel())  # type: ignore[arg-type]  # an opaque class in the stubs
        max_tokens = token_budget(request, served.limits)
        async with generation:
            async for event in generation:
                if isinstance(event, Failed):
                    yield request.request_id, failed_fields(event.error)
                    raise event.error
                fields = event_fields(event, request, max_tokens, logprobs=question.response.logprobs)
                yield request.request_id, fields

    def _deadline(self, context: Context) -> float:
        """The client's deadline or the server's own, whichever comes first, in time.monotonic()."""
        remaining: float | None = context.time_remaining()  # None without a deadline, whatever the stubs say
        longest = self._request_timeout_seconds
        return time.monotonic() + (longest if remaining is None else min(longest, remaining))


class ModelService(model_pb2_grpc.ModelServiceServicer):
    """What is served."""

    def __init__(self, served: Served) -> None:
        self._served = served

    async def GetModel(  # noqa: N802
        self, request: model_pb2.GetModelRequest, context: Context
    ) -> model_pb2.GetModelResponse:
        served = self._served()
        message = model_message(
            served.spec,
            context_tokens=served.limits.context_tokens,
            sequences=served.workers.limits.sequences,
            end_ids=served.tokenizer.end_ids,
            chat_template=served.template is not None,
        )
        return model_pb2.GetModelResponse(model=message)


class PlacementService(placement_pb2_grpc.PlacementServiceServicer):
    """Where it lies."""

    def __init__(self, served: Served) -> None:
        self._served = served

    async def GetPlacement(  # noqa: N802
        self, request: placement_pb2.GetPlacementRequest, context: Context
    ) -> placement_pb2.GetPlacementResponse:
        return placement_message(self._served().workers.placement())

    async def Rebalance(  # noqa: N802
        self, request: placement_pb2.RebalanceRequest, context: Context
    ) -> AsyncIterator[placement_pb2.RebalanceResponse]:
        served = self._served()
        drained = request.drain_worker if request.HasField("drain_worker") else None
        hits = served.workers.expert_hits()
        moves = await asyncio.to_thread(wanted_moves, served.spec, served.workers, hits, drained)
        async for made in make_moves(served.workers, moves):
            yield placement_pb2.RebalanceResponse(made=made, moves=len(moves))


def _prompt_of(question: Question, served: ServedModel) -> Sequence[int]:
    if question.model and question.model != served.spec.name:
        raise InvalidRequest("model", f"is {question.model!r}; this service serves {served.spec.name!r}")
    if isinstance(question, generation_pb2.ChatRequest):
        return _conversation(question, served)
    match question.WhichOneof("input"):
        case "text":
            return encode_text(served.tokenizer, question.text, special=question.parse_special)
        case "token_ids":
            return question.token_ids.ids
        case _:
            raise InvalidRequest("input", "is missing; expected text or token_ids")


def _conversation(question: generation_pb2.ChatRequest, served: ServedModel) -> Sequence[int]:
    if served.template is None:
        raise UnsupportedModel(f"{served.spec.name!r} has no working chat template in its file; use Generate")
    if not question.messages:
        raise InvalidRequest("messages", "is empty; expected at least one message")
    for index, message in enumerate(question.messages):
        if not message.role:
            raise InvalidRequest(f"messages[{index}].role", "is empty; expected system, user or assistant")
    turns = [Turn(message.role, message.content) for message in question.messages]
    return encode_conversation(served.tokenizer, served.template, turns)


def _prompt_field(question: Question) -> str:
    """Where a fault of the prompt's tokens lies in the client's message."""
    if isinstance(question, generation_pb2.ChatRequest):
        return "messages"
    return "token_ids.ids" if question.WhichOneof("input") == "token_ids" else "text"


def _check_ids(ids: Sequence[int], vocabulary: int) -> None:
    for index, token_id in enumerate(ids):
        if token_id >= vocabulary:
            raise InvalidRequest(f"ids[{index}]", f"is {token_id}; this model's ids are 0 to {vocabulary - 1}")
