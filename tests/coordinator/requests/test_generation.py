"""Events on their way from one thread to one coroutine: in order, never lost, never piling up."""

from __future__ import annotations

import asyncio
import threading

from numoe.coordinator.engine.latch import Latch
from numoe.coordinator.requests.events import (
    Accepted,
    Delta,
    Event,
    Failed,
    Finished,
    FinishReason,
    PromptProgress,
    PromptTokens,
    Timings,
    Usage,
)
from numoe.coordinator.requests.generation import MOST_TOKENS, Generation, Mailbox, wake_consumers
from numoe.protos.errors import RequestCancelled
from numoe.protos.messages import Draw

FINISHED = Finished(FinishReason.LENGTH, None, Usage(1, 1), Timings(0, 0, 0, 0, 0))


def _generation(cancelled: list[Generation]) -> Generation:
    return Generation("r", asyncio.get_running_loop(), cancelled.append)


def test_a_consumer_that_lags_gets_one_event_of_each_kind() -> None:
    mailbox = Mailbox()
    mailbox.put_accepted(Accepted(0, 0.0))
    for done in (1, 2, 3):
        mailbox.put_progress(done, 3)
    mailbox.put_prompt_tokens([Draw(1, -1.0), Draw(2, -2.0)])
    mailbox.put_prompt_tokens([Draw(3, -3.0)])
    for token_id in range(1000):
        mailbox.put_delta("x", Draw(token_id, -1.0))
    assert mailbox.put_terminal(FINISHED)
    taken = [mailbox.take() for _ in range(6)]
    assert taken == [
        Accepted(0, 0.0),
        PromptProgress(3, 3),
        PromptTokens((Draw(1, -1.0), Draw(2, -2.0), Draw(3, -3.0))),
        Delta("x" * 1000, tuple(range(1000)), (-1.0,) * 1000, ((),) * 1000),
        FINISHED,
        None,
    ]


def test_what_lags_far_behind_comes_in_events_of_bounded_size() -> None:
    mailbox, draws = Mailbox(), [Draw(token_id, -1.0) for token_id in range(10_000)]
    mailbox.put_prompt_tokens(draws)
    for draw in draws:
        mailbox.put_delta(f"{draw.token_id} ", draw)
    mailbox.put_terminal(FINISHED)
    taken = list(iter(mailbox.take, None))
    assert taken.pop() == FINISHED
    prompts = [event.draws for event in taken if isinstance(event, PromptTokens)]
    deltas = [event for event in taken if isinstance(event, Delta)]
    assert [draw for told in prompts for draw in told] == draws
    assert [token_id for delta in deltas for token_id in delta.token_ids] == list(range(10_000))
    for delta in deltas:
        assert delta.text.split() == [str(token_id) for token_id in delta.token_ids]
    assert max(map(len, (*prompts, *(delta.token_ids for delta in deltas)))) == MOST_TOKENS


def test_nothing_follows_the_first_terminal_event() -> None:
    mailbox = Mailbox()
    assert mailbox.put_terminal(FINISHED)
    assert not mailbox.put_terminal(Failed(RequestCancelled("late")))
    mailbox.put_accepted(Accepted(0, 0.0))
    mailbox.put_progress(1, 1)
    mailbox.put_delta("x", Draw(1, 0.0))
    assert [mailbox.take(), mailbox.take()] == [FINISHED, None]


async def test_events_put_by_another_thread_arrive_in_order_and_end_the_iteration() -> None:
    generation = _generation([])

    def produce() -> None:
        for token_id in range(5000):
            generation.mailbox.put_delta(str(token_id % 10), Draw(token_id, 0.0))
            wake_consumers([generation])
        generation.mailbox.put_terminal(FINISHED)
        wake_consumers([generation])

    thread = threading.Thread(target=produce)
    thread.start()
    events: list[Event] = [event async for event in generation]
    thread.join()
    tokens = [token_id for event in events if isinstance(event, Delta) for token_id in event.token_ids]
    assert tokens == list(range(5000))
    assert events[-1] == FINISHED
    assert [event async for event in generation] == []


async def test_cancel_ends_the_iteration_once_and_may_be_repeated() -> None:
    cancelled: list[Generation] = []
    generation = _generation(cancelled)
    reader = asyncio.create_task(_collect(generation))
    await asyncio.sleep(0)
    generation.cancel()
    generation.cancel()
    (event,) = await reader
    assert isinstance(event, Failed)
    assert isinstance(event.error, RequestCancelled)
    assert cancelled == [generation]


async def test_leaving_the_block_cancels_and_a_finished_request_stays_finished() -> None:
    cancelled: list[Generation] = []
    async with _generation(cancelled) as left:
        pass
    async with _generation(cancelled) as finished:
        finished.mailbox.put_terminal(FINISHED)
    assert cancelled == [left]
    assert await _collect(finished) == [FINISHED]


def test_a_closed_event_loop_closes_the_mailboxes_that_nobody_will_read() -> None:
    async def open_one() -> Generation:
        generation = _generation([])
        assert generation.mailbox.take() is None
        return generation

    generation = asyncio.run(open_one())
    generation.mailbox.put_delta("x", Draw(1, 0.0))
    wake_consumers([generation])
    assert generation.mailbox.closed


async def test_a_latch_set_in_a_thread_releases_all_who_wait_and_all_who_come_later() -> None:
    latch = Latch()
    waiting = [asyncio.create_task(latch.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    threading.Thread(target=latch.set).start()
    await asyncio.gather(*waiting[1:])
    await latch.wait()
    assert waiting[0].cancelled()
    assert latch.is_set


async def _collect(generation: Generation) -> list[Event]:
    return [event async for event in generation]
