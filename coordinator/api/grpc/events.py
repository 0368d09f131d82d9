"""From the engine's events to the messages of numoe.v1."""

from __future__ import annotations

from typing import TypedDict

from numoe.coordinator.api.failures import Failure
from numoe.coordinator.requests import events
from numoe.coordinator.requests.request import GenerationRequest
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
    request: GenerationRequest,
    max_tokens: int,
    *,
    logprobs: bool,
) -> EventFields:
    """The message of one event of `request`, which may draw `max_tokens`."""
    match event:
        case events.Accepted():
            accepted = generation_pb2.Accepted(
                queue_position=event.queue_position,
                estimated_wait_seconds=event.estimated_wait_seconds,
                prompt_tokens=len(request.prompt),
                max_tokens=max_tokens,
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
            return {"delta": _delta(event, logprobs=logprobs)}
        case events.Finished():
            return {"finished": _finished(event)}


def failed_fields(failure: Failure) -> EventFields:
    """The terminal message of a generation that failed; the call's status will say the same."""
    return {"failed": generation_pb2.Failed(reason=failure.reason, message=failure.message)}


def _delta(event: events.Delta, *, logprobs: bool) -> generation_pb2.Delta:
    tokens = (
        _token(token_id, logprob if logprobs else None, alternatives)
        for token_id, logprob, alternatives in zip(event.token_ids, event.logprobs, event.alternatives, strict=True)
    )
    return generation_pb2.Delta(text=event.text, tokens=tokens)


def _token(token_id: int, logprob: float | None, alternatives: Alternatives) -> generation_pb2.Token:
    top = [generation_pb2.Alternative(id=other, logprob=likely) for other, likely in alternatives]
    return generation_pb2.Token(id=token_id, logprob=logprob, top=top)


def _finished(event: events.Finished) -> generation_pb2.Finished:
    usage, timings = event.usage, event.timings
    stop = None
    if isinstance(event.stop_match, str):
        stop = generation_pb2.StopMatch(text=event.stop_match)
    elif event.stop_match is not None:
        stop = generation_pb2.StopMatch(token_id=event.stop_match)
    return generation_pb2.Finished(
        reason=_FINISH_REASONS[event.reason],
        stop=stop,
        usage=generation_pb2.Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            mean_experts=usage.mean_experts,
            saved_bytes=usage.saved_bytes,
        ),
        timings=generation_pb2.Timings(
            queue_milliseconds=timings.queue_milliseconds,
            prefill_milliseconds=timings.prefill_milliseconds,
            decode_milliseconds=timings.decode_milliseconds,
            prefill_tokens_per_second=timings.prefill_tokens_per_second,
            decode_tokens_per_second=timings.decode_tokens_per_second,
        ),
    )
