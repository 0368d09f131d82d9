"""Real clients of OpenAI's and Anthropic's APIs, and README's line of curl, against a real `numoe serve`."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.request import Request, urlopen

import pytest
from anthropic import Anthropic
from openai import OpenAI
from pydantic import BaseModel, Field

from tests.system.clients import SERVE_FLAGS, SHAPE
from tests.system.serve_process import PATIENCE_SECONDS, ServeProcess, serving
from tests.tiny_model import write_tiny_model

README = Path(__file__).parents[3] / "README.md"
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


class Weather(BaseModel):
    """What is to be told."""

    city: Literal["Bern", "Rome"]
    degrees: Annotated[int, Field(ge=-40, le=50)]
    windy: bool


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    model = tmp_path_factory.mktemp("served") / "tiny.gguf"
    write_tiny_model(model, SHAPE)
    with serving(model.with_name("log"), str(model), *SERVE_FLAGS) as server:
        yield server


def test_both_clients_get_the_same_answer_streamed_or_not(server: ServeProcess) -> None:
    given: Any = {"messages": HELLO, "max_tokens": 20, "extra_body": {"temperature": 0}}
    with OpenAI(api_key="none", base_url=f"http://{server.http}/v1", timeout=PATIENCE_SECONDS) as client:
        [model] = client.models.list().data
        given["model"] = model.id
        whole = client.chat.completions.create(**given, logprobs=True)
        stream = client.chat.completions.create(**given, stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        again = client.chat.completions.create(**given, n=4)
    with Anthropic(api_key="none", base_url=f"http://{server.http}", timeout=PATIENCE_SECONDS) as other:
        message = other.messages.create(**given)
    content = whole.choices[0].message.content
    assert content
    assert {content} == {streamed, *(choice.message.content for choice in again.choices)}
    assert [block.text for block in message.content if block.type == "text"] == [content]
    assert whole.choices[0].logprobs is not None
    logprobs = [one.logprob for one in whole.choices[0].logprobs.content or ()]
    assert whole.usage is not None
    ends = whole.choices[0].finish_reason == "stop"  # with a token that is no part of the answer
    assert len(logprobs) + ends == whole.usage.completion_tokens
    assert max(logprobs) <= 0


def test_random_weights_tell_what_a_class_describes(server: ServeProcess) -> None:
    with OpenAI(api_key="none", base_url=f"http://{server.http}/v1", timeout=PATIENCE_SECONDS) as client:
        [model] = client.models.list().data
        told = [
            client.chat.completions.parse(model=model.id, messages=HELLO, seed=seed, response_format=Weather)
            for seed in range(3)
        ]
    assert all(isinstance(answer.choices[0].message.parsed, Weather) for answer in told)
    assert [answer.choices[0].finish_reason for answer in told] == ["stop"] * 3


def test_the_line_of_curl_in_readme_works_as_it_is_printed(server: ServeProcess) -> None:
    [line] = re.findall(r"^    (curl .*)$", README.read_text(), re.MULTILINE)
    curl, url, flag, body = shlex.split(line)
    assert (curl, flag) == ("curl", "-d")
    address, path = re.fullmatch(r"(127\.0\.0\.1:50152)(/.*)", url).groups()  # type: ignore[union-attr]
    assert address == "127.0.0.1:50152"  # what --http-address is by default
    form = {"content-type": "application/x-www-form-urlencoded"}  # as curl says of -d
    with urlopen(Request(f"http://{server.http}{path}", body.encode(), form), timeout=PATIENCE_SECONDS) as reply:
        [choice] = json.load(reply)["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] in ("stop", "length")
