"""The honest client of a besieged service: what it is answered, and how long it waits for tokens and for health."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from numoe.v1.generation_pb2 import ChatMessage, ChatRequest, ResponseOptions, Sampling, Stopping
from numoe.v1.generation_pb2_grpc import GenerationServiceStub
from tests.coordinator.api.grpc.grpc_serving import detail_of
from tests.coordinator.api.http.http_client import ask
from tests.system.serve_process import PATIENCE_SECONDS

TOKENS = 96
HEALTH_SECONDS = 10.0  # an orchestrator's patience with a probe is 1 to 10 s; on a busy machine the least is no measure
LATE_SECONDS = 2.0
MOST_UNANSWERED = 2  # probes in a row; Kubernetes acts on the third
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
QUESTIONS = (
    ("Explain in one sentence why the sky is blue.", Sampling()),
    ("Name three rivers.", Sampling(temperature=0.6, top_p=0.95, top_k=20, seed=11)),
    ("Write a short poem about the sea. " * 20, Sampling(temperature=1.0, seed=12, repetition_penalty=1.1)),
)


@dataclass(frozen=True, slots=True)
class Told:
    """One answer, to the bit."""

    text: str
    tokens: tuple[tuple[int, float], ...]  # ids and log-probabilities, which float32 keeps exactly


@dataclass(slots=True)
class Diary:
    """What happened to the honest client in one stretch of time."""

    answers: int = 0
    refusals: int = 0  # of a full queue, each with a time to come back
    different: list[str] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)  # seconds from one token to the next
    first: list[float] = field(default_factory=list)  # seconds from asking to the first token, refusals included
    health: list[float] = field(default_factory=list)  # seconds until a check was answered, or given up
    http: list[float] = field(default_factory=list)  # the same over HTTP
    late: int = 0  # checks, of both kinds, that were not answered within LATE_SECONDS
    failures: list[str] = field(default_factory=list)


class HonestClient:
    """Asks the same questions in turn over one connection; checks of health have a new one each, as orchestrators'."""

    def __init__(self, channel: grpc.aio.Channel, address: str, http: str) -> None:
        self._address, self._http = address, http
        self._generation = GenerationServiceStub(channel)
        self._expected: list[Told] = []

    async def learn(self) -> None:
        """Keep what each question is answered while nobody else asks."""
        self._expected = [await self._ask(index, Diary()) for index in range(len(QUESTIONS))]
        assert all(len(told.tokens) == TOKENS for told in self._expected)

    async def live(self, seconds: float, until: asyncio.Future[bytes] | None = None) -> Diary:
        """Ask, and look after the service's health, for so long at least, and until something is done."""
        diary = Diary()
        end = time.monotonic() + seconds
        probing = [asyncio.create_task(probe(diary)) for probe in (self._probe, self._probe_http)]
        index = 0
        while time.monotonic() < end or not (until is None or until.done()):
            try:
                told = await self._ask(index % len(QUESTIONS), diary)
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                diary.failures.append(f"a question failed: {_brief(error)}")
            else:
                diary.answers += 1
                if told != self._expected[index % len(QUESTIONS)]:
                    diary.different.append(f"question {index % len(QUESTIONS)} was answered {told.text!r}")
            index += 1
        for probe in probing:
            probe.cancel()
        await asyncio.wait(probing)
        diary.late = sum(seconds > LATE_SECONDS for seconds in (*diary.health, *diary.http))
        return diary

    async def _ask(self, index: int, diary: Diary) -> Told:
        asked = time.monotonic()
        while True:
            try:
                return await self._read(index, asked, diary)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                diary.refusals += 1
                await asyncio.sleep(
                    detail_of(error, error_details_pb2.RetryInfo).retry_delay.ToTimedelta().total_seconds()
                )

    async def _read(self, index: int, asked: float, diary: Diary) -> Told:
        text, sampling = QUESTIONS[index]
        request = ChatRequest(
            messages=[ChatMessage(role="user", content=text)],
            sampling=sampling,
            stopping=Stopping(max_tokens=TOKENS, ignore_eos=True),
            response=ResponseOptions(logprobs=True),
        )
        said, tokens, last = "", list[tuple[int, float]](), 0.0
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for message in self._generation.Chat(request):
                now = time.monotonic()
                if message.HasField("delta"):
                    diary.gaps += [now - last] if last else []
                    diary.first += [] if last else [now - asked]
                    last = now
                    said += message.delta.text
                    tokens += [(token.id, token.logprob) for token in message.delta.tokens]
        return Told(said, tuple(tokens))

    async def _probe(self, diary: Diary) -> None:
        unanswered = 0  # in a row
        while True:
            asked = time.monotonic()
            try:
                async with grpc.aio.insecure_channel(self._address, OWN_CONNECTION) as channel:
                    check = health_pb2_grpc.HealthStub(channel).Check
                    answer = await check(health_pb2.HealthCheckRequest(), timeout=HEALTH_SECONDS)
            except grpc.aio.AioRpcError as error:
                unanswered += 1
                if unanswered > MOST_UNANSWERED or error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    diary.failures.append(f"health checks failed: {_brief(error)}")
            else:
                unanswered = 0
                if answer.status != health_pb2.HealthCheckResponse.SERVING:
                    diary.failures.append(f"health said {answer.status}")
            diary.health.append(time.monotonic() - asked)
            await asyncio.sleep(1.0)

    async def _probe_http(self, diary: Diary) -> None:
        unanswered = 0  # in a row
        while True:
            asked = time.monotonic()
            try:
                async with asyncio.timeout(HEALTH_SECONDS):
                    answer = await ask(self._http, "/readyz")
            except TimeoutError:
                unanswered += 1
                if unanswered > MOST_UNANSWERED:
                    diary.failures.append("health checks over HTTP were not answered")
            except (OSError, EOFError) as error:
                diary.failures.append(f"health checks over HTTP failed: {error!r}")
            else:
                unanswered = 0
                if answer.status != 200:
                    diary.failures.append(f"health over HTTP said {answer.status} {answer.body[:200]!r}")
            diary.http.append(time.monotonic() - asked)
            await asyncio.sleep(1.0)


def _brief(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return repr(error)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all does not exceed; NaN of none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")
