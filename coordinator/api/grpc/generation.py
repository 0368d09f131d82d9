"""GenerationService: messages in, questions to the engine; events out, messages back. Nothing else.

Guarantees: a refused request raises (calls.py makes it a status) before any message; an accepted one gets `accepted`
first and exactly one terminal message; whichever way a call ends, its generation is cancelled or over.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

from numoe.coordinator.api.answering import submit, tokenize
from numoe.coordinator.api.encoding import DETOKENIZED_IDS, Checkpoint, work_apart
from numoe.coordinator.api.failures import ToldError, describe_failure
from numoe.coordinator.api.grpc.calls import Context
from numoe.coordinator.api.grpc.events import EventFields, event_fields, failed_fields
from numoe.coordinator.api.grpc.questions import QuestionMessage, in_message, read_question
from numoe.coordinator.api.prompts import decode
from numoe.coordinator.api.served_model import ModelSource
from numoe.coordinator.requests.events import Failed
from numoe.protos.errors import InvalidRequest
from numoe.v1 import generation_pb2, generation_pb2_grpc


class GenerationService(generation_pb2_grpc.GenerationServiceServicer):
    """Text from prompts and conversations."""

    def __init__(self, source: ModelSource) -> None:
        self._source = source

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
        bos = request.add_bos if request.HasField("add_bos") else True
        ids = await tokenize(
            self._source(), request.text, special=request.parse_special, bos=bos, deadline=_deadline(context)
        )
        return generation_pb2.TokenizeResponse(ids=ids)

    async def Detokenize(  # noqa: N802
        self, request: generation_pb2.DetokenizeRequest, context: Context
    ) -> generation_pb2.DetokenizeResponse:
        served, ids = self._source(), request.ids
        if len(ids) > DETOKENIZED_IDS:
            raise InvalidRequest("ids", f"has {len(ids)} ids; at most {DETOKENIZED_IDS} are decoded in one call")
        _check_ids(ids, served.spec.vocabulary)

        def work(checkpoint: Checkpoint) -> str:
            return decode(served.tokenizer, ids, checkpoint)

        return generation_pb2.DetokenizeResponse(text=await work_apart(work, len(ids), _deadline(context)))

    async def _answer(self, message: QuestionMessage, context: Context) -> AsyncIterator[tuple[str, EventFields]]:
        served = self._source()
        try:
            question = read_question(message, _deadline(context), served.limits.context_tokens)
            answer = await submit(question, served)
        except InvalidRequest as error:
            raise in_message(error, message) from error
        request, generation = answer.request, answer.generation
        # The generator alone would not do: it is not closed at once if the client goes while a message is being sent.
        context.add_done_callback(lambda _: generation.cancel())  # type: ignore[arg-type]  # an opaque class in the stubs
        async with generation:
            async for event in generation:
                if isinstance(event, Failed):
                    failure = describe_failure(event.error)
                    yield request.request_id, failed_fields(failure)
                    raise ToldError(failure)
                fields = event_fields(event, request, answer.max_tokens, logprobs=message.response.logprobs)
                yield request.request_id, fields


def _deadline(context: Context) -> float | None:
    """When the client gives up, in time.monotonic(); None: never."""
    remaining: float | None = context.time_remaining()  # None without a deadline, whatever the stubs say
    return None if remaining is None else time.monotonic() + remaining


def _check_ids(ids: Sequence[int], vocabulary: int) -> None:
    if max(ids, default=0) >= vocabulary:
        index, token_id = next((index, token_id) for index, token_id in enumerate(ids) if token_id >= vocabulary)
        raise InvalidRequest(f"ids[{index}]", f"is {token_id}; this model's ids are 0 to {vocabulary - 1}")
