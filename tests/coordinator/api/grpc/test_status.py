"""Every way a request can go wrong, as its client sees it: status, google.rpc details, terminal message."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from structlog.testing import capture_logs

from numoe.coordinator.api.failures import _KINDS, MESSAGE_BYTES, Failure, describe_failure, kind_of
from numoe.coordinator.api.grpc.status import status_of
from numoe.coordinator.requests.events import Failed
from numoe.protos import errors
from numoe.protos.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LogitsNotFinite,
    ModelFileError,
    ModelNotFound,
    NumoeError,
    PlanError,
    QueueFull,
    RequestCancelled,
    ServiceError,
    Unavailable,
    UnsupportedModel,
    WorkerLost,
)
from numoe.protos.messages import NOT_DRAWN, Step, StepResult
from numoe.v1.generation_pb2 import (
    ChatMessage,
    ChatRequest,
    Choice,
    DetokenizeRequest,
    ExpertReduction,
    GenerateRequest,
    GenerateResponse,
    Guided,
    ResponseOptions,
    Sampling,
    Stopping,
    TokenizeRequest,
)
from numoe.v1.placement_pb2 import RebalanceRequest
from tests.coordinator.api.grpc.grpc_serving import (
    FakeWorkers,
    ask,
    chatted,
    detail_of,
    fake_workers,
    generated,
    info_of,
    running_server,
    settings_of,
    small_workers,
    until,
)
from tests.coordinator.engine.fake_executor import lose_worker_at, lose_workers_from
from tests.coordinator.engine.serving import Gate, both
from tests.coordinator.tiny_tokenizer import LETTERS

ERRORS: tuple[tuple[NumoeError, grpc.StatusCode], ...] = (
    (InvalidRequest("sampling.top_p", "is 2"), grpc.StatusCode.INVALID_ARGUMENT),
    (ModelNotFound("no such model"), grpc.StatusCode.NOT_FOUND),
    (QueueFull("full", 1.5), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (DeadlineExceeded("late"), grpc.StatusCode.DEADLINE_EXCEEDED),
    (RequestCancelled("gone"), grpc.StatusCode.CANCELLED),
    (UnsupportedModel("no template"), grpc.StatusCode.FAILED_PRECONDITION),
    (PlanError("no room"), grpc.StatusCode.FAILED_PRECONDITION),
    (Unavailable("loading"), grpc.StatusCode.UNAVAILABLE),
    (WorkerLost("died"), grpc.StatusCode.UNAVAILABLE),
    (ServiceError("a step took more than 600 s: nothing was changed"), grpc.StatusCode.UNAVAILABLE),
    (LogitsNotFinite("no numbers"), grpc.StatusCode.DATA_LOSS),
)
ROW = re.compile(r"^[ |]*(?:\+-- )?(\w+) .* ([A-Z_]+)$", re.MULTILINE)  # of the table in protos/errors.py


def many_ids() -> list[int]:
    return [1] * 300


INVALID: tuple[tuple[str, Callable[[], GenerateRequest]], ...] = (
    ("input", GenerateRequest),
    ("text", lambda: GenerateRequest(text="")),
    ("text", lambda: GenerateRequest(text="a b " * 300)),
    ("token_ids.ids", lambda: ask(())),
    ("token_ids.ids[1]", lambda: ask((1, 331))),
    ("token_ids.ids", lambda: ask(many_ids())),
    ("model", lambda: ask(model="another")),
    ("priority", lambda: ask(priority=7)),
    ("request_id", lambda: ask(request_id="x" * 129)),
    ("request_id", lambda: ask(request_id="two\nlines")),
    ("stopping.max_tokens", lambda: ask(max_tokens=0)),
    ("stopping.max_tokens", lambda: ask(max_tokens=1000)),
    ("stopping.min_tokens", lambda: ask(stopping=Stopping(max_tokens=3, min_tokens=4))),
    ("stopping.stop[1]", lambda: ask(stopping=Stopping(stop=["a", ""]))),
    ("stopping.stop", lambda: ask(stopping=Stopping(stop=["a"] * 17))),
    ("stopping.stop_token_ids", lambda: ask(stopping=Stopping(stop_token_ids=[331]))),
    ("sampling.temperature", lambda: ask(sampling=Sampling(temperature=float("nan")))),
    ("sampling.top_p", lambda: ask(sampling=Sampling(top_p=0.0))),
    ("sampling.min_p", lambda: ask(sampling=Sampling(min_p=1.5))),
    ("sampling.repetition_penalty", lambda: ask(sampling=Sampling(repetition_penalty=0.0))),
    ("sampling.presence_penalty", lambda: ask(sampling=Sampling(presence_penalty=-3.0))),
    ("sampling.typical_p", lambda: ask(sampling=Sampling(typical_p=0.0))),
    ("sampling.logit_bias", lambda: ask(sampling=Sampling(logit_bias={331: 1.0}))),
    ("guided", lambda: ask(guided=Guided())),
    ("guided.regex", lambda: ask(guided=Guided(regex="(a"))),
    ("guided.json_schema", lambda: ask(guided=Guided(json_schema="["))),
    ("guided.choice", lambda: ask(guided=Guided(choice=Choice()))),
    ("response.top_logprobs", lambda: ask(response=ResponseOptions(top_logprobs=21))),
    ("experts.threshold", lambda: ask(experts=ExpertReduction(threshold=1.5))),
    ("experts.fewest", lambda: ask(experts=ExpertReduction(fewest=0, threshold=0.5))),
)


def reason_of(status: status_pb2.Status) -> str:
    """The stable name in a status's ErrorInfo."""
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return str(info.reason)


async def error_of(answer: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await answer
    return raised.value


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_every_kind_of_error_has_a_status_with_its_reason(error: NumoeError, code: grpc.StatusCode) -> None:
    status = status_of(describe_failure(error))
    assert status.code == code.value[0]
    assert reason_of(status) == error.reason
    kinds = {detail.type_url.rpartition(".")[2] for detail in status.details}
    assert ("BadRequest" in kinds) == (code is grpc.StatusCode.INVALID_ARGUMENT)
    assert ("RetryInfo" in kinds) == (code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE))


def test_every_class_of_errors_has_the_status_that_its_table_says() -> None:
    told = dict(ROW.findall(errors.__doc__ or ""))
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, NumoeError)]
    assert told.keys() == {kind.__name__ for kind in classes}
    for kind in classes:
        status = status_of(Failure(kind_of(kind), kind.reason, "why"))
        assert code_pb2.Code.Name(status.code) == told[kind.__name__], kind
        assert kind in _KINDS


@pytest.mark.parametrize("error", [ValueError("secret"), ModelFileError("truncated", "secret"), NumoeError("secret")])
def test_what_no_client_can_understand_is_internal_and_tells_nothing(error: Exception) -> None:
    status = status_of(describe_failure(error))
    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert reason_of(status) == "INTERNAL"
    assert b"secret" not in status.SerializeToString()


@pytest.mark.parametrize("letter", ["x", "漢", "🙂", "\x07", "\ud800"])
def test_a_long_message_is_cut_by_its_bytes(letter: str) -> None:
    status = status_of(describe_failure(InvalidRequest("messages", "is " + letter * 50_000)))
    assert len(status.message.encode()) <= MESSAGE_BYTES
    assert len(status.SerializeToString()) < 2048


@pytest.mark.parametrize("letter", ["x", "漢", "🙂", "\x07"])
async def test_a_long_message_still_fits_the_trailers(letter: str) -> None:
    async with running_server() as running:
        error = await error_of(generated(running, ask(model=letter * 3000)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    assert info_of(error) == ("INVALID_REQUEST", "numoe")
    assert detail_of(error, error_details_pb2.BadRequest).field_violations[0].field == "model"


def test_a_message_is_one_line_that_steers_no_terminal() -> None:
    failure = describe_failure(InvalidRequest("messages", "are refused: \x1b]0;owned\x07two\nlines \u202eback"))
    assert failure.message == "messages: are refused: ]0;owned two lines back"


async def test_invalid_fields_are_named_by_their_path_in_the_request() -> None:
    async with running_server() as running:
        for field, make in INVALID:
            error = await error_of(generated(running, make()))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, (field, error)
            is_long = "context" in str(error.details()) and "max_tokens" not in field  # which agents know by its name
            assert info_of(error) == ("CONTEXT_LENGTH_EXCEEDED" if is_long else "INVALID_REQUEST", "numoe")
            violation = detail_of(error, error_details_pb2.BadRequest).field_violations[0]
            assert violation.field == field
            assert error.details() == f"{field}: {violation.description}"
        assert (await generated(running, ask())).finished, "the service still serves"


async def test_conversations_are_checked_as_well() -> None:
    async with running_server() as running:
        for field, messages in (
            ("messages", []),
            ("messages[1].role", [ChatMessage(role="user", content="a"), ChatMessage(content="b")]),
            ("messages", [ChatMessage(role="user", content="a b " * 300)]),
        ):
            error = await error_of(chatted(running, ChatRequest(messages=messages)))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert detail_of(error, error_details_pb2.BadRequest).field_violations[0].field == field
        late = await error_of(running.generation.Detokenize(DetokenizeRequest(ids=[1, 331])))
        assert detail_of(late, error_details_pb2.BadRequest).field_violations[0].field == "ids[1]"


async def test_a_model_without_a_template_refuses_chat_only() -> None:
    async with running_server(template=None) as running:
        error = await error_of(chatted(running, ChatRequest(messages=[ChatMessage(role="user", content="a")])))
        assert (await generated(running, ask())).finished
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert info_of(error) == ("UNSUPPORTED_MODEL", "numoe")


async def test_a_full_queue_says_when_to_come_back() -> None:
    gate = Gate(0)
    workers, settings = small_workers(before_collect=gate), settings_of(queue_length=1)
    async with running_server(workers, settings) as running:
        held = [asyncio.create_task(generated(running, ask())) for _ in range(2)]
        await until(lambda: running.busy()[:2] == (1, 1))
        error = await error_of(generated(running, ask()))
        gate.open()
        assert all(told.finished for told in await asyncio.gather(*held))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert info_of(error) == ("QUEUE_FULL", "numoe")
    assert detail_of(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() >= 100


async def failed_stream(stream: Any) -> tuple[list[GenerateResponse], grpc.aio.AioRpcError]:
    messages: list[GenerateResponse] = []

    async def read() -> None:
        async for message in stream:
            messages.append(message)

    error = await error_of(read())
    kinds = [message.WhichOneof("event") for message in messages]
    assert kinds[0] == "accepted"
    assert kinds[-1] == "failed"
    assert "finished" not in kinds
    assert kinds.count("failed") == 1
    return messages, error


async def test_workers_lost_again_and_again_end_every_stream_with_a_failure_and_the_same_status() -> None:
    gate = Gate(0)
    workers = fake_workers(before_collect=both(gate, lose_workers_from(5)))
    async with running_server(workers) as running:
        streams = [failed_stream(running.generation.Generate(ask(max_tokens=100))) for _ in range(2)]
        reading = asyncio.gather(*streams)
        await until(lambda: sum(running.busy()[:2]) == 2)
        gate.open()
        for messages, error in await reading:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert info_of(error) == ("WORKER_LOST", "numoe")
            assert messages[-1].failed.reason == "WORKER_LOST"
            assert messages[-1].failed.message == error.details()
            assert detail_of(error, error_details_pb2.RetryInfo)
        await until(
            lambda: workers.restarts == 3 and running.coordinator.served_model().engine.snapshot().state == "serving"
        )
        assert (await generated(running, ask())).finished


async def test_a_stream_tells_that_it_goes_on_and_is_the_answer_it_would_have_been() -> None:
    async with running_server() as running:
        undisturbed = await generated(running, ask(max_tokens=20))
    async with running_server(fake_workers(before_collect=lose_worker_at(6))) as running:
        messages = [message async for message in running.generation.Generate(ask(max_tokens=20))]
    kinds = [message.WhichOneof("event") for message in messages]
    assert kinds.count("resumed") == 1
    resumed = messages[kinds.index("resumed")].resumed
    assert resumed.reason == "worker 1 (pid 4242) died in step 6"
    assert resumed.tokens_again == messages[0].accepted.prompt_tokens + 5
    assert resumed.seconds > 0
    assert [token.id for message in messages for token in message.delta.tokens] == list(undisturbed.ids)
    assert messages[-1].finished.usage == undisturbed.finished.usage


class NothingDrawn(FakeWorkers):
    """Workers whose logits are never finite."""

    def collect(self, timeout_seconds: float) -> StepResult:
        result = super().collect(timeout_seconds)
        result.token_ids[:] = NOT_DRAWN
        return result


async def test_logits_that_are_not_finite_end_a_stream_with_data_loss() -> None:
    async with running_server(NothingDrawn(LETTERS)) as running:
        messages, error = await failed_stream(running.generation.Generate(ask(max_tokens=100)))
    assert error.code() is grpc.StatusCode.DATA_LOSS
    assert info_of(error) == ("LOGITS_NOT_FINITE", "numoe")
    assert messages[-1].failed.reason == "LOGITS_NOT_FINITE"
    assert "position 3" in messages[-1].failed.message


async def test_experts_that_are_split_by_row_cannot_be_moved() -> None:
    async with running_server() as running:
        error = await error_of(running.placement.Rebalance(RebalanceRequest()).read())
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert info_of(error) == ("PLAN", "numoe")
    assert "--split expert" in str(error.details())


async def test_the_servers_own_time_limit_ends_a_stream_with_a_failure() -> None:
    gate = Gate(2)
    settings = settings_of(request_timeout_seconds=0.2)
    async with running_server(fake_workers(before_collect=gate), settings) as running:
        reading = asyncio.create_task(failed_stream(running.generation.Generate(ask(max_tokens=200))))
        await gate.reached.wait()
        await asyncio.sleep(0.2)  # the limit itself
        gate.open()
        _, error = await reading
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert info_of(error) == ("DEADLINE_EXCEEDED", "numoe")


class BrokenTokenizer:
    """A defect of ours, as clients would meet it."""

    vocabulary = 331
    end_ids: frozenset[int] = frozenset()

    def encode_parts(self, parts: Sequence[object]) -> Iterator[list[int]]:
        raise RuntimeError(f"secret {parts}")


async def test_a_defect_is_internal_and_tells_the_client_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    async with running_server(tokenizer=BrokenTokenizer()) as running:
        error = await error_of(running.generation.Tokenize(TokenizeRequest(text="hello")))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert info_of(error) == ("INTERNAL", "numoe")
    incident = detail_of(error, error_details_pb2.ErrorInfo).metadata["incident"]
    assert incident in (error.details() or "")
    assert "secret" not in str(error.trailing_metadata()) + str(error.details())
    assert incident in capsys.readouterr().out


async def test_an_incident_has_one_name_in_the_stream_the_status_and_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def defect(step: Step) -> None:
        monkeypatch.setattr("numoe.coordinator.engine.batch.Failed", lambda _: Failed(NumoeError("a defect")))
        raise WorkerLost("worker 1 died")

    with capture_logs() as logged:
        async with running_server(fake_workers(before_collect=defect)) as running:
            messages, error = await failed_stream(running.generation.Generate(ask(max_tokens=100)))
    incident = detail_of(error, error_details_pb2.ErrorInfo).metadata["incident"]
    assert messages[-1].failed.message == error.details()
    assert incident in messages[-1].failed.message
    assert [line["incident"] for line in logged if "incident" in line] == [incident]


async def test_a_request_beyond_the_size_limit_is_refused_before_it_is_read() -> None:
    async with running_server() as running:
        error = await error_of(running.generation.Tokenize(TokenizeRequest(text="x" * (17 << 20))))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
