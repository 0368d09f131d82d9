"""GenerationService: messages in, questions to the engine; events out, messages back. Nothing else.

Guarantees: a refused request raises (calls.py makes it a status) before any message; an accepted one gets `accepted`
first and exactly one terminal message; whichever way a call ends, its generation is cancelled or over. A call whose
answer is not read ends soon after its deadline, and its place is free again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from numoe.coordinator.api.answering import Answer, detokenize, submit, tokenize
from numoe.coordinator.api.askers import REQUEST_ID, check_request_id, name_asker, refusals_told
from numoe.coordinator.api.failures import ToldError, describe_failure
from numoe.coordinator.api.grpc.calls import Context, headers_of
from numoe.coordinator.api.grpc.events import EventFields, event_fields, failed_fields, rest_fields
from numoe.coordinator.api.grpc.questions import QuestionMessage, in_message, read_question
from numoe.coordinator.api.served_model import ModelSource, ServedModel
from numoe.coordinator.requests.events import Failed, Finished
from numoe.coordinator.requests.request_end import Asker, Report
from numoe.protos.errors import InvalidRequest, QueueFull
from numoe.v1 import generation_pb2, generation_pb2_grpc

UNREAD_SECONDS = 10.0  # past its deadline, for a client to take what is left of its answer
RETRY_SECONDS = 1.0  # told where all places are taken; an answer takes seconds


class GenerationService(generation_pb2_grpc.GenerationServiceServicer):
    """Text from prompts and conversations, so many at once."""

    def __init__(self, source: ModelSource, most_answers: int, report: Report) -> None:
        """`report` is told of requests that are refused; of accepted ones the engine tells."""
        self._source = source
        self._report = report
        self._most_answers = most_answers
        self._open: set[object] = set()

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
            self._source(), request.text, special=request.parse_special, bos=bos, deadline=_deadline(context)
        )
        return generation_pb2.TokenizeResponse(ids=ids)

    async def Detokenize(  # noqa: N802
        self, request: generation_pb2.DetokenizeRequest, context: Context
    ) -> generation_pb2.DetokenizeResponse:
        text = await detokenize(self._source(), request.ids, _deadline(context))
        return generation_pb2.DetokenizeResponse(text=text)

    async def _answer(
        self, method: str, message: QuestionMessage, context: Context
    ) -> AsyncIterator[tuple[str, EventFields]]:
        headers = headers_of(context)
        asker = name_asker(context.peer(), method, message.request_id, headers)
        told_id = ((REQUEST_ID, asker.request_id),)
        context.set_trailing_metadata(told_id)
        with refusals_told(asker, self._report):
            check_request_id(message.request_id, headers)
            answer = await self._submit(asker, message, context)
        request, generation = answer.request, answer.generation
        context.add_done_callback(lambda _: generation.cancel())  # type: ignore[arg-type]
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

    async def _submit(self, asker: Asker, message: QuestionMessage, context: Context) -> Answer:
        served = self._source()
        place = self._take_place(served)
        # A generator alone would not do: it is not closed at once if the client goes while a message is being sent.
        context.add_done_callback(lambda _: self._open.discard(place))  # type: ignore[arg-type]  # opaque in the stubs
        try:
            question = read_question(message, _deadline(context), served.limits.context_tokens, asker)
            self._end_unread(context, served.engine.deadline_of(question.request, time.monotonic()))
            return await submit(question, served)
        except InvalidRequest as error:
            raise in_message(error, message) from error

    def _take_place(self, served: ServedModel) -> object:
        if len(self._open) >= self._most_answers:
            served.engine.counts.note_rejected()
            raise QueueFull(f"{len(self._open)} answers are open, as many as may; try again in a second", RETRY_SECONDS)
        place = object()
        self._open.add(place)
        return place

    def _end_unread(self, context: Context, deadline: float) -> None:
        """End the call some time after its deadline: a client that reads nothing would keep it open for ever."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        timer = loop.call_later(deadline + UNREAD_SECONDS - time.monotonic(), task.cancel)
        context.add_done_callback(lambda _: timer.cancel())  # type: ignore[arg-type]


def _deadline(context: Context) -> float | None:
    """When the client gives up, in time.monotonic(); None: never."""
    remaining: float | None = context.time_remaining()  # None without a deadline, whatever the stubs say
    return None if remaining is None else time.monotonic() + remaining
