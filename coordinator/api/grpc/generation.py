"""GenerationService: messages in, questions to the engine; events out, messages back. Nothing else.

Guarantees: a refused request raises (calls.py makes it a status) before any message; an accepted one gets `accepted`
first and exactly one terminal message; and what accepting.py guarantees.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from numoe.coordinator.api.answering import Question, detokenize, tokenize
from numoe.coordinator.api.askers import REQUEST_ID
from numoe.coordinator.api.failures import ToldError, describe_failure
from numoe.coordinator.api.grpc.accepting import Acceptor, Asked, Cleanup, asker_of, deadline_of
from numoe.coordinator.api.grpc.calls import Context
from numoe.coordinator.api.grpc.events import EventFields, event_fields, failed_fields, rest_fields
from numoe.coordinator.api.grpc.questions import QuestionMessage, in_message, read_question
from numoe.coordinator.api.served_model import ModelSource, ServedModel
from numoe.coordinator.requests.events import Failed, Finished
from numoe.v1 import generation_pb2, generation_pb2_grpc


class GenerationService(generation_pb2_grpc.GenerationServiceServicer):
    """Text from prompts and conversations."""

    def __init__(self, source: ModelSource, acceptor: Acceptor) -> None:
        self._source = source
        self._acceptor = acceptor

    async def Generate(  # noqa: N802
        self, request: generation_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        async for request_id, fields in self._answer("GenerationService/Generate", request, context):
            yield generation_pb2.GenerateResponse(request_id=request_id, **fields)

    async def Chat(  # noqa: N802
        self, request: generation_pb2.ChatRequest, context: Context
    ) -> AsyncIterator[generation_pb2.ChatResponse]:
        async for request_id, fields in self._answer("GenerationService/Chat", request, context):
            yield generation_pb2.ChatResponse(request_id=request_id, **fields)

    async def Tokenize(  # noqa: N802
        self, request: generation_pb2.TokenizeRequest, context: Context
    ) -> generation_pb2.TokenizeResponse:
        bos = request.add_bos if request.HasField("add_bos") else True
        ids = await tokenize(
            self._source(), request.text, special=request.parse_special, bos=bos, deadline=deadline_of(context)
        )
        return generation_pb2.TokenizeResponse(ids=ids)

    async def Detokenize(  # noqa: N802
        self, request: generation_pb2.DetokenizeRequest, context: Context
    ) -> generation_pb2.DetokenizeResponse:
        text = await detokenize(self._source(), request.ids, deadline_of(context))
        return generation_pb2.DetokenizeResponse(text=text)

    async def _answer(
        self, method: str, message: QuestionMessage, context: Context
    ) -> AsyncIterator[tuple[str, EventFields]]:
        asker = asker_of(context, method, message.request_id)
        told_id = ((REQUEST_ID, asker.request_id),)
        context.set_trailing_metadata(told_id)

        def read(served: ServedModel) -> Question:
            return read_question(message, deadline_of(context), served.limits.context_tokens, asker)

        asked = Asked(asker, message.request_id, read, lambda error: in_message(error, message), Cleanup(context))
        answer = await self._acceptor.accept(asked, context)
        request, generation = answer.request, answer.generation
        async with generation:
            await context.send_initial_metadata(told_id)
            async for event in generation:
                if isinstance(event, Failed):
                    failure = describe_failure(event.error, request.request_id)
                    yield request.request_id, failed_fields(failure)
                    raise ToldError(failure)
                parts = answer.read(event)
                if isinstance(event, Finished) and parts:
                    yield request.request_id, rest_fields(parts)
                yield request.request_id, event_fields(event, answer, parts, logprobs=message.response.logprobs)
