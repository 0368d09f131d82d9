"""Asking many questions: how many at once, when, and what becomes of those that fail."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import pytest

from numoe.coordinator.access.credentials import Access
from numoe.coordinator.measuring.load.driving import AskFailed, Hear, Usage, drive
from numoe.coordinator.measuring.load.figures import figures_of
from numoe.coordinator.measuring.load.grpc_target import GrpcTarget
from numoe.coordinator.measuring.load.questions import Mix, Question, make_questions
from tests.coordinator.access.made_keys import asking, make_keys
from tests.coordinator.api.grpc.grpc_serving import running_server, settings_of

LONG = 600.0


@dataclass
class Answering:
    """Answers two pieces; notes how many are open."""

    open: int = 0
    most_open: int = 0
    asked: list[int] = field(default_factory=list)

    async def ask(self, question: Question, hear: Hear) -> Usage:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        self.asked.append(question.number)
        hear()
        await asyncio.sleep(0)
        hear()
        self.open -= 1
        return Usage(3, question.max_tokens)


def mix(requests: int, rate: float | None = None) -> tuple[Question, ...]:
    return make_questions(Mix(requests, (1, 4), (1, 4), rate))


async def test_as_many_are_open_as_may_be_and_all_are_answered_in_order() -> None:
    target, ended = Answering(), list[None]()
    questions = mix(50)
    outcomes = await drive(questions, target, 4, LONG, lambda: ended.append(None))
    assert target.most_open == 4
    assert [one.question for one in outcomes] == list(questions)
    assert (target.asked, len(ended)) == (list(range(50)), 50)
    assert all(one.began <= one.pieces[0] <= one.pieces[1] <= one.ended for one in outcomes)
    assert [one.answer_tokens for one in outcomes] == [one.max_tokens for one in questions]


async def test_questions_with_a_time_of_their_own_are_waited_for_from_then_on() -> None:
    questions = mix(30, rate=200.0)
    start = time.monotonic()
    outcomes = await drive(questions, Answering(), None, LONG)
    assert time.monotonic() - start >= questions[-1].at_seconds
    assert [one.began for one in outcomes] == [one.at_seconds for one in questions]
    assert all(one.pieces[0] >= one.began for one in outcomes)


async def test_what_fails_or_hangs_is_counted_and_harms_no_other() -> None:
    class Failing(Answering):
        async def ask(self, question: Question, hear: Hear) -> Usage:
            if question.number == 1:
                raise AskFailed("429: full")
            if question.number == 2:
                await asyncio.Event().wait()
            return await super().ask(question, hear)

    figures = figures_of(await drive(mix(4), Failing(), 2, 0.05))
    assert (figures.requests, figures.errors) == (2, {"429: full": 1, "not complete within 0.05 s": 1})


@pytest.mark.parametrize("chat", [False, True])
async def test_a_service_of_numoe_is_asked_over_grpc_with_a_key(
    chat: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("keys") / "keys"
    keys = make_keys(path)
    questions = mix(20)
    async with running_server(settings=asking(settings_of(), path)) as running:
        async with GrpcTarget(running.ready.address, Access(keys["infer"]), chat=chat) as target:
            figures = figures_of(await drive(questions, target, 4, LONG))
        async with GrpcTarget(running.ready.address, Access(), chat=chat) as stranger:
            refused = figures_of(await drive(questions[:2], stranger, 1, LONG))
    assert (figures.requests, figures.errors) == (20, {})
    assert figures.answer_tokens == sum(one.max_tokens for one in questions)
    assert figures.prompt_tokens > 0
    [(why, count)] = refused.errors.items()
    assert (count, why.partition(":")[0]) == (2, "UNAUTHENTICATED")
