"""Accepting requests to be answered, whatever messages they came in: so many at once, of all calls together.

Guarantees: whichever way a request or its call ends, its generation is cancelled or over and its place is free. A call
whose answer is not read ends soon after its deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from numoe.coordinator.api.answering import Answer, Question, submit
from numoe.coordinator.api.askers import check_request_id, name_asker, refusals_told
from numoe.coordinator.api.grpc.calls import Context, headers_of
from numoe.coordinator.api.served_model import ModelSource, ServedModel
from numoe.coordinator.requests.request_end import Asker, Report
from numoe.protos.errors import InvalidRequest, QueueFull, RequestError

UNREAD_SECONDS = 10.0  # past its deadline, for a client to take what is left of its answer
RETRY_SECONDS = 1.0  # told where all places are taken; an answer takes seconds


class Cleanup:
    """What is to be done once a request is over, and at the latest when its call is.

    A generator alone would not do: it is not closed at once if the client goes while a message is being sent.
    """

    def __init__(self, context: Context) -> None:
        self._todo: list[Callable[[], object]] = []
        self._is_late = False
        context.add_done_callback(lambda _: self._call_ended())  # type: ignore[arg-type]  # opaque in the stubs

    def add(self, action: Callable[[], object]) -> None:
        """Do this then; at once where the call is over already."""
        if self._is_late:
            action()
        else:
            self._todo.append(action)

    def run(self) -> None:
        """The request is over; the call may have others."""
        todo, self._todo = self._todo, []
        for action in todo:
            action()

    def _call_ended(self) -> None:
        self._is_late = True
        self.run()


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of a call, for the door that knows its messages to read."""

    asker: Asker
    given_id: str  # "": the headers' counts
    read: Callable[[ServedModel], Question]  # may raise InvalidRequest
    told: Callable[[InvalidRequest], RequestError]  # another error: the fault in the words of the client's message
    cleanup: Cleanup


def asker_of(context: Context, method: str, given_id: str) -> Asker:
    """Who makes a call."""
    return name_asker(context.peer(), method, given_id, headers_of(context))


def deadline_of(context: Context) -> float | None:
    """When the client gives up, in time.monotonic(); None: never."""
    remaining: float | None = context.time_remaining()  # None without a deadline, whatever the stubs say
    return None if remaining is None else time.monotonic() + remaining


class Acceptor:
    """Of one service."""

    def __init__(self, source: ModelSource, most_answers: int, report: Report) -> None:
        """`report` is told of requests that are refused; of accepted ones the engine tells."""
        self._source = source
        self._report = report
        self._most_answers = most_answers
        self._open: set[object] = set()

    async def accept(self, asked: Asked, context: Context) -> Answer:
        """Queue the request. Raises ToldError where it is refused."""
        with refusals_told(asked.asker, self._report):
            try:
                check_request_id(asked.given_id, headers_of(context))
                answer = await self._submit(asked)
            except InvalidRequest as error:
                raise asked.told(error) from error
        asked.cleanup.add(answer.generation.cancel)
        return answer

    async def _submit(self, asked: Asked) -> Answer:
        served = self._source()
        place = self._take_place(served)
        asked.cleanup.add(lambda: self._open.discard(place))
        question = asked.read(served)
        deadline = served.engine.deadline_of(question.request, time.monotonic())
        asked.cleanup.add(_end_unread(deadline).cancel)
        return await submit(question, served)

    def _take_place(self, served: ServedModel) -> object:
        if len(self._open) >= self._most_answers:
            served.engine.counts.note_rejected()
            raise QueueFull(f"{len(self._open)} answers are open, as many as may; try again in a second", RETRY_SECONDS)
        place = object()
        self._open.add(place)
        return place


def _end_unread(deadline: float) -> asyncio.TimerHandle:
    """Ends the call some time after the deadline: a client that reads nothing would keep it open for ever."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    return loop.call_later(deadline + UNREAD_SECONDS - time.monotonic(), task.cancel)
