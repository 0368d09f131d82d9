"""`numoe load`: what many clients at once get of a running service, over HTTP or gRPC."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from numoe.coordinator.commands.options import SERVICE_OPTIONS, ServiceOptions
from numoe.coordinator.settings import NOT_NEGATIVE, POSITIVE, Bound, check_bound
from numoe.protos.errors import SetupError

if TYPE_CHECKING:
    from numoe.coordinator.measuring.load.driving import Outcome
    from numoe.coordinator.measuring.load.questions import Mix

OutputFormat = Literal["table", "json"]
TIMEOUT_SECONDS = 600.0  # of a question, where none is said: nothing is waited for without end
REQUESTS = Bound("1 or more", lambda value: value >= 1, most=1_000_000)
SHARE = Bound("above 0 and at most 1", lambda value: 0 < value <= 1)
_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")


def load(
    *,
    options: ServiceOptions = SERVICE_OPTIONS,
    url: str | None = None,
    model: str = "",
    chat: bool = False,
    requests: Annotated[int, Parameter(name=("--requests", "-n"))] = 64,
    concurrency: int = 8,
    rate: float | None = None,
    prompt_words: str = "32-512",
    answer_tokens: str = "16-256",
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    output_format: OutputFormat = "table",
    plot: Path | None = None,
) -> None:
    """Measure what many clients at once get of a running service: throughput, time to the first token, gaps.

    Lengths of prompts and answers are mixed, and the same for the same seed; no two prompts begin alike. A gap is the
    time between two pieces of an answer, which are tokens unless they come very fast.

    Parameters
    ----------
    options
        Which service, over gRPC; --timeout-seconds is for each question, 600 if nothing is said.
    url
        A service that speaks OpenAI's HTTP instead, numoe, llama-server or another: http://127.0.0.1:8080
    model
        Which model to ask for over HTTP. Default: the first that the service lists.
    chat
        Ask as a conversation of one turn, instead of having a text continued.
    requests
        How many questions to ask.
    concurrency
        How many are open at once: one more is asked whenever one is over.
    rate
        Ask so many in a second instead, at random times as strangers do, however many are open.
    prompt_words
        Length of prompts, from-to; of common English words, which are about a token each.
    answer_tokens
        Length of answers, from-to.
    temperature
        0 always takes the likeliest token.
    top_k
        Draw from so many likeliest tokens; 0: from all.
    top_p
        Draw from the likeliest tokens that together have this probability.
    seed
        The same seed asks the same.
    output_format
        What is written to standard output; json has every question, too.
    plot
        Draw throughput and waiting over time into this picture, PNG or SVG by its name; needs numoe[plot].
    """
    from numoe.coordinator.measuring.load.questions import Mix

    for name, value, bound in (
        ("requests", requests, REQUESTS),
        ("concurrency", concurrency, POSITIVE),
        ("rate", rate, POSITIVE),
        ("temperature", temperature, NOT_NEGATIVE),
        ("top_k", top_k, NOT_NEGATIVE),
        ("top_p", top_p, SHARE),
        ("timeout_seconds", options.timeout_seconds, POSITIVE),
    ):
        check_bound(name, value, bound)
    prompts, answers = _range("--prompt-words", prompt_words), _range("--answer-tokens", answer_tokens)
    mix = Mix(requests, prompts, answers, rate, temperature, seed, top_k, top_p)
    # They bring gRPC and rich's progress: what is wrong is refused before.
    from numoe.coordinator.commands.measuring.load.tables import describe_load, load_json
    from numoe.coordinator.commands.measuring.running import check_folder
    from numoe.coordinator.commands.screen.terminal import out
    from numoe.coordinator.measuring.load.figures import figures_of

    if plot is not None:
        from numoe.coordinator.commands.measuring.load.picture import draw_load
        from numoe.coordinator.commands.measuring.plot import refuse_without_matplotlib

        check_folder("--plot", plot)
        refuse_without_matplotlib(plot)
    asked = url or options.address
    outcomes = _ask_all(mix, None if rate is not None else concurrency, options, url, model, chat=chat)
    figures = figures_of(outcomes)
    how = f"{rate:g} a second" if rate is not None else f"{concurrency} at once"
    title = f"{asked}: {requests} requests, {how}, prompts of {prompt_words} words, answers of {answer_tokens} tokens"
    if output_format == "json":
        out().out(load_json(asked, mix, figures, outcomes))
    else:
        out().print(describe_load(title, figures))
    if plot is not None:
        draw_load(plot, title, figures, outcomes)
    if not figures.requests:
        from numoe.protos.errors import ServiceError

        raise ServiceError(f"no question was answered: {next(iter(figures.errors))}")


def _ask_all(
    mix: Mix, most_open: int | None, options: ServiceOptions, url: str | None, model: str, *, chat: bool
) -> list[Outcome]:
    import asyncio

    from numoe.coordinator.commands.measuring.running import Rows
    from numoe.coordinator.measuring.load.driving import drive
    from numoe.coordinator.measuring.load.grpc_target import GrpcTarget
    from numoe.coordinator.measuring.load.http_target import HttpTarget, read_url
    from numoe.coordinator.measuring.load.questions import make_questions

    place = None if url is None else read_url(url)
    if place is None:
        access = options.credentials.read(options.address)
    else:
        access = options.credentials.read(place.address, is_encrypted=place.is_encrypted)
    questions, seconds = make_questions(mix), options.timeout_seconds or TIMEOUT_SECONDS

    async def run() -> list[Outcome]:
        if place is not None:
            http = HttpTarget(place, access, model, chat=chat)
            await http.find_model()
            return await drive(questions, http, most_open, seconds, rows.advance)
        async with GrpcTarget(options.address, access, chat=chat) as target:
            return await drive(questions, target, most_open, seconds, rows.advance)

    with Rows(len(questions), "asking") as rows:
        return asyncio.run(run())


def _range(flag: str, text: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(text)
    fewest, most = (0, 0) if match is None else (int(match[1]), int(match[2] or match[1]))
    if not 1 <= fewest <= most:
        raise SetupError(f"{flag} is {text!r}, expected a number of 1 or more, or from-to: 32-512")
    return fewest, most
