"""Asking over OpenAI's HTTP: what is sent, what counts as text, and every way in which an answer fails."""

from __future__ import annotations

import socket

import pytest

from numoe.coordinator.access.credentials import Access
from numoe.coordinator.measuring.load.driving import AskFailed, Usage
from numoe.coordinator.measuring.load.http_target import LINE_BYTES, HttpTarget, Place, read_url
from numoe.coordinator.measuring.load.questions import Question
from numoe.protos.errors import SetupError
from tests.coordinator.measuring.load.scripted_server import USAGE, Scripted, refused, said, scripted, stream, text

QUESTION = Question(0, 0.0, "the of and", 5, 0.5, 7, 20, 0.9)


async def heard(script: Scripted, *, chat: bool = False, base: str = "") -> tuple[int, Usage]:
    """How many pieces were heard, and what was counted."""
    target = HttpTarget(read_url(script.url + base), Access("numoe-k"), "", chat=chat)
    await target.find_model()
    pieces = list[None]()
    usage = await target.ask(QUESTION, lambda: pieces.append(None))
    return len(pieces), usage


async def test_a_completion_is_asked_for_and_counted() -> None:
    async with scripted(*stream(text("a"), text(""), text("b c"), USAGE)) as script:
        assert await heard(script, base="/v1/") == (2, Usage(9, 4))
    [body] = script.bodies
    assert (body["model"], body["prompt"], body["max_tokens"]) == ("scripted", "the of and", 5)
    assert (body["temperature"], body["top_k"], body["top_p"]) == (0.5, 20, 0.9)
    assert (body["stream"], body["stream_options"], body["seed"]) == (True, {"include_usage": True}, 7)
    assert script.heads[1].startswith("POST /v1/completions HTTP/1.1\r\n")
    assert "authorization: Bearer numoe-k\r\n" in script.heads[1]


async def test_a_chat_counts_content_thoughts_and_calls_of_tools() -> None:
    calls = [{"index": 0, "function": {"arguments": "{"}}]
    events = said(role="assistant"), said(reasoning_content="hm"), said(content="yes"), said(tool_calls=calls), said()
    async with scripted(*stream(*events)) as script:
        assert await heard(script, chat=True) == (3, Usage())
    assert script.bodies[0]["messages"] == [{"role": "user", "content": "the of and"}]
    assert script.heads[1].startswith("POST /v1/chat/completions ")


async def test_events_may_be_cut_anywhere() -> None:
    whole = b"".join(stream(text("a"), text("b"), USAGE))
    async with scripted(*(whole[at : at + 1] for at in range(len(whole)))) as script:
        assert await heard(script) == (2, Usage(9, 4))


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        (refused("429 Too Many", b'{"error":{"message":"full"}}'), "429: full"),
        (refused("500 Oh", b"<html>"), "500: <html>"),
        (stream(text("a"), done=False), "the answer broke off"),
        (stream(text("a"))[:2], "the connection broke"),
        (stream({"error": {"message": "worker lost"}}), "worker lost"),
        (stream("a text"), "no object"),
        ([b"HTTP/1.1 200 OK\r\n\r\ndata: {\n\n"], "no JSON"),
        ([b"nonsense\r\n\r\n"], "the connection broke"),
        ([], "the connection broke"),
        ([b"HTTP/1.1 200 OK\r\n\r\ndata: " + b"x" * (LINE_BYTES + 1)], "a line of more than"),
    ],
)
async def test_an_answer_that_fails_says_why(parts: list[bytes], why: str) -> None:
    async with scripted(*parts) as script:
        with pytest.raises(AskFailed, match=why):
            await heard(script)


@pytest.mark.parametrize("models", [b'{"data":[]}', b"[]", b"{", b'{"data":7}'])
async def test_a_service_that_lists_no_model_is_said_so(models: bytes) -> None:
    async with scripted(models=models) as script:
        with pytest.raises(AskFailed, match="--model"):
            await heard(script)


async def test_nobody_listening_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    target = HttpTarget(read_url(f"http://127.0.0.1:{port}"), Access(), "m", chat=False)
    with pytest.raises(AskFailed, match="no connection"):
        await target.ask(QUESTION, lambda: None)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://h:1", Place(False, "h", 1, "h:1", "")),
        ("https://h/v1", Place(True, "h", 443, "h", "")),
        ("http://[::1]:8/a/v1/", Place(False, "::1", 8, "[::1]:8", "/a")),
    ],
)
def test_a_url_is_read(url: str, place: Place) -> None:
    assert read_url(url) == place


@pytest.mark.parametrize("url", ["", "h:1", "ftp://h", "http://", "http://h:99999", "http://[::1"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(SetupError, match="--url"):
        read_url(url)
