"""Losing parts of a busy service again and again: what its streams were answered, how long it took, what is left."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import psutil  # type: ignore[import-untyped]

from numoe.coordinator.engine.engine import IDLE_CHECK_SECONDS
from numoe.v1.generation_pb2 import GenerateRequest, ResponseOptions, Sampling, Stopping, TokenIds
from tests.system.clients import SHAPE, Client, Stream
from tests.system.serve_process import PATIENCE_SECONDS, ServeProcess, open_files

STREAMS = 16
SERVE_FLAGS = (
    *("--address", "127.0.0.1:0", "--workers", "2", "--threads-per-worker", "1", "--stuck-seconds", "3", "--standby"),
    *("--sequences", str(STREAMS - 4), "--context-tokens", "4096", "--kv-tokens", str(STREAMS * 4096)),
)
LONG_STOPS = tuple(f"{letter * 200}</tool_call>" for letter in "abc")  # as long as a tool's call, and never drawn


def requests(scale: float = 1.0) -> list[GenerateRequest]:
    """Prompts of one token to many chunks, greedy and drawn, with penalties and stop strings, in one order."""
    samplings = (
        Sampling(),
        Sampling(temperature=1.0, seed=1),
        Sampling(temperature=0.6, top_p=0.95, top_k=20, seed=2, repetition_penalty=1.1),
        Sampling(temperature=1.3, min_p=0.01, seed=3, presence_penalty=1.0, frequency_penalty=0.2),
    )
    made = []
    for index in range(STREAMS):
        prompt = [
            (7 * index + 3 * place) % SHAPE.vocabulary
            for place in range(1 + int(scale * (0, 19, 299, 1499)[index % 4]))
        ]
        stopping = Stopping(
            max_tokens=int(scale * (300 + 20 * index)), ignore_eos=True, stop=LONG_STOPS if index % 3 == 0 else ()
        )
        sampling = samplings[index // 4]
        ids = TokenIds(ids=prompt)
        response = ResponseOptions(logprobs=True)
        made.append(GenerateRequest(token_ids=ids, sampling=sampling, stopping=stopping, response=response))
    return made


@dataclass(frozen=True, slots=True)
class Told:
    """One answer, to the bit."""

    text: str
    tokens: tuple[tuple[int, float], ...]  # log-probabilities are float32, which a Python float keeps
    end: bytes  # reason, stop and tokens, encoded

    @classmethod
    def of(cls, stream: Stream) -> Told:
        deltas = [message.delta for message in stream.messages]
        finished = stream.messages[-1].finished
        finished.ClearField("timings")
        for chance in ("cached_tokens", "drafted_tokens", "accepted_tokens"):  # that depend on what else was asked
            finished.usage.ClearField(chance)
        tokens = tuple((token.id, token.logprob) for delta in deltas for token in delta.tokens)
        return cls("".join(delta.text for delta in deltas), tokens, finished.SerializeToString(deterministic=True))


@dataclass(slots=True)
class Holdings:
    """What processes of the service hold of the machine."""

    descriptors: int  # of the coordinator
    threads: int  # of the coordinator
    memory: int  # bytes of the coordinator
    processes: int  # of the service, with the coordinator
    shared_memory: frozenset[str]

    @classmethod
    def of(cls, server: ServeProcess) -> Holdings:
        coordinator = psutil.Process(server.process.pid)
        return cls(
            len(open_files(server.process.pid)),
            coordinator.num_threads(),
            coordinator.memory_info().rss,
            1 + len(coordinator.children(recursive=True)),
            frozenset(os.listdir("/dev/shm")),
        )


Harm = Callable[[ServeProcess, Client, random.Random], Awaitable[None]]


@dataclass(slots=True)
class Report:
    """What became of the streams over all losses."""

    different: list[str] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)  # seconds from the harm until the first stream went on
    resumed: int = 0  # streams that told of a loss
    idle: int = 0  # losses while no stream was at work
    before: Holdings | None = None
    after: Holdings | None = None
    log: str = ""  # the service's

    def __str__(self) -> str:
        pauses = sorted(self.pauses) or [float("nan")]
        lines = [
            f"{len(self.pauses)} losses under {STREAMS} streams, of which {self.resumed} resumed",
            f"{self.idle} more at a moment without a stream at work",
            f"from the loss to the next token: median {median(pauses):.2f} s, longest {pauses[-1]:.2f} s",
            f"the coordinator's before: {self.before}",
            f"and after:                {self.after}",
        ]
        return "\n".join([*lines, *(self.different or ["every answer was that of an undisturbed service, to the bit"])])


class Campaign:
    """Rounds of all requests at once, with one loss in each."""

    def __init__(
        self, server: ServeProcess, client: Client, seed: int = 0, *, rested: bool = False, scale: float = 1.0
    ) -> None:
        """`rested`: each loss waits until spare processes are there again. `scale`: of prompts and answers."""
        self._requests = requests(scale)
        self._server, self._client, self._random, self._rested = server, client, random.Random(seed), rested
        self.expected: list[Told] = []
        self._seconds = 0.0  # of an undisturbed round
        self.report = Report()

    async def answers(self) -> list[Told]:
        """What everything is answered while nothing is lost."""
        return [Told.of(stream) for stream in await self._round()]

    async def learn(self, expected: Sequence[Told] = ()) -> None:
        """Keep what everything is answered, which may be known, and how long that takes when it is asked again."""
        self.expected = await self.answers()
        assert not expected or self.expected == expected
        await self.rest()
        began = time.monotonic()
        assert await self.answers() == self.expected
        self._seconds = time.monotonic() - began

    async def rest(self) -> None:
        """Wait until all that was lost is noticed, and back."""
        await asyncio.sleep(2 * IDLE_CHECK_SECONDS)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while 0 in await self._client.workers() or (self._rested and not _has_spares(self._server)):
                await asyncio.sleep(0.05)

    async def lose(self, harm: Harm, *, at_work: bool = False) -> None:
        """One round, with `harm` at a random moment; `at_work`: when streams are certainly at work."""
        await self.rest()
        reading = asyncio.create_task(self._round())
        first, last = (0.2, 0.5) if at_work else (0.0, 0.8)
        await asyncio.sleep(self._random.uniform(first, last) * self._seconds)
        harmed = time.monotonic()
        await harm(self._server, self._client, self._random)
        streams = await reading
        report = self.report
        self._compare(streams)
        resumed = [stream.resumed_at for stream in streams if stream.resumed_at]
        if resumed:
            report.pauses.append(min(resumed) - harmed)
        else:
            report.idle += 1

    async def again(self) -> float:
        """One round without a harm; returns its seconds."""
        began = time.monotonic()
        self._compare(await self._round())
        return time.monotonic() - began

    def _compare(self, streams: Sequence[Stream]) -> None:
        self.report.resumed += sum(stream.resumed_at > 0 for stream in streams)
        for index, (stream, expected) in enumerate(zip(streams, self.expected, strict=True)):
            if Told.of(stream) != expected:
                self.report.different.append(f"stream {index} was answered {Told.of(stream)}, not {expected}")

    async def _round(self) -> list[Stream]:
        streams = [self._client.stream(request) for request in self._requests]
        await asyncio.gather(*[stream.finish() for stream in streams])
        return streams


def _has_spares(server: ServeProcess) -> bool:
    """Whether processes were started beside the workers since those started last."""
    return server.log.count('"standby_ready"') > server.log.count('"workers_restarted"')


def killing(number: signal.Signals) -> Harm:
    """A signal to one of the workers."""

    async def harm(server: ServeProcess, client: Client, choice: random.Random) -> None:
        os.kill(choice.choice(await client.workers()), number)

    return harm


def killing_keeper(number: signal.Signals) -> Harm:
    """SIGKILL to what keeps the weights, and a signal to one of the workers."""

    async def harm(server: ServeProcess, client: Client, choice: random.Random) -> None:
        server.keeper().kill()
        await killing(number)(server, client, choice)

    return harm


def killing_process(name: str) -> Harm:
    """SIGKILL to the process of Ray's with this name."""

    async def harm(server: ServeProcess, client: Client, choice: random.Random) -> None:
        for child in psutil.Process(server.process.pid).children(recursive=True):
            if child.name() == name:
                child.kill()

    return harm
