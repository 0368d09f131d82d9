"""From the engine's events to the messages of numoe.v1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from numoe.coordinator.api.answering import Answer
from numoe.coordinator.api.failures import Failure
from numoe.coordinator.requests import events
from numoe.model.chat.parts import AnswerPart, CallArguments, CallBegins, Content, Reasoning
from numoe.protos.messages import Alternatives
from numoe.v1 import generation_pb2

_FINISH_REASONS = {
    events.FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    events.FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
}


class EventFields(TypedDict, total=False):
    """The one field of GenerateResponse.event or ChatResponse.event that an engine event fills."""

    accepted: generation_pb2.Accepted
    prompt_progress: generation_pb2.PromptProgress
    prompt_tokens: generation_pb2.PromptTokens
    resumed: generation_pb2.Resumed
    delta: generation_pb2.Delta
    finished: generation_pb2.Finished
    failed: generation_pb2.Failed


def event_fields(
    event: events.Accepted
    | events.PromptProgress
    | events.PromptTokens
    | events.Resumed
    | events.Delta
    | events.Finished,
    answer: Answer,
    parts: Sequence[AnswerPart],
    *,
    logprobs: bool,
) -> EventFields:
    """The message of one event of an answer; `parts` are what that goes on with at a Delta."""
    request = answer.request
    match event:
        case events.Accepted():
            accepted = generation_pb2.Accepted(
                queue_position=event.queue_position,
                estimated_wait_seconds=event.estimated_wait_seconds,
                prompt_tokens=len(request.prompt),
                max_tokens=answer.max_tokens,
                seed=request.sampling.seed,
            )
            return {"accepted": accepted}
        case events.PromptProgress():
            return {"prompt_progress": generation_pb2.PromptProgress(done_tokens=event.done, total_tokens=event.total)}
        case events.PromptTokens():
            told = [_token(draw.token_id, draw.logprob, draw.alternatives) for draw in event.draws]
            return {"prompt_tokens": generation_pb2.PromptTokens(tokens=told)}
        case events.Resumed():
            resumed = generation_pb2.Resumed(reason=event.reason, seconds=event.seconds, tokens_again=event.tokens)
            return {"resumed": resumed}
        case events.Delta():
            return {"delta": _delta(parts, _tokens(event, logprobs=logprobs))}
        case events.Finished():
            return {"finished": _finished(event, called=answer.called)}


def rest_fields(parts: Sequence[AnswerPart]) -> EventFields:
    """The message of what an answer ends with, behind its last tokens."""
    return {"delta": _delta(parts, ())}


def failed_fields(failure: Failure) -> EventFields:
    """The terminal message of a generation that failed; the call's status will say the same."""
    return {"failed": generation_pb2.Failed(reason=failure.reason, message=failure.message)}


def _tokens(event: events.Delta, *, logprobs: bool) -> Sequence[generation_pb2.Token]:
    return [
        _token(token_id, logprob if logprobs else None, alternatives)
        for token_id, logprob, alternatives in zip(event.token_ids, event.logprobs, event.alternatives, strict=True)
    ]


def _token(token_id: int, logprob: float | None, alternatives: Alternatives) -> generation_pb2.Token:
    top = [generation_pb2.Alternative(id=other, logprob=likely) for other, likely in alternatives]
    return generation_pb2.Token(id=token_id, logprob=logprob, top=top)


def _delta(parts: Sequence[AnswerPart], tokens: Sequence[generation_pb2.Token]) -> generation_pb2.Delta:
    delta = generation_pb2.Delta(tokens=tokens)
    for part in parts:
        match part:
            case Content():
                delta.text += part.text
            case Reasoning():
                delta.reasoning += part.text
            case CallBegins():
                delta.tool_calls.add(index=part.index, id=part.id, name=part.name)
            case CallArguments():
                _call_of(delta, part.index).arguments += part.text
    return delta


def _call_of(delta: generation_pb2.Delta, index: int) -> generation_pb2.ToolCallDelta:
    calls = delta.tool_calls
    return calls[-1] if calls and calls[-1].index == index else calls.add(index=index)


def _finished(event: events.Finished, *, called: bool) -> generation_pb2.Finished:
    usage, timings = event.usage, event.timings
    stop = None
    if isinstance(event.stop_match, str):
        stop = generation_pb2.StopMatch(text=event.stop_match)
    elif event.stop_match is not None:
        stop = generation_pb2.StopMatch(token_id=event.stop_match)
    reason = _FINISH_REASONS[event.reason]
    if called and event.reason is events.FinishReason.STOP:
        reason = generation_pb2.FINISH_REASON_TOOL_CALLS
    return generation_pb2.Finished(
        reason=reason,
        stop=stop,
        usage=generation_pb2.Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            mean_experts=usage.mean_experts,
            saved_bytes=usage.saved_bytes,
            cached_tokens=usage.cached_tokens,
            drafted_tokens=usage.drafted_tokens,
            accepted_tokens=usage.accepted_tokens,
        ),
        timings=generation_pb2.Timings(
            queue_milliseconds=timings.queue_milliseconds,
            prefill_milliseconds=timings.prefill_milliseconds,
            decode_milliseconds=timings.decode_milliseconds,
            prefill_tokens_per_second=timings.prefill_tokens_per_second,
            decode_tokens_per_second=timings.decode_tokens_per_second,
        ),
    )
