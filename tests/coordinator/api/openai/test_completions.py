"""Text completions: prompts that are told again, where tokens stand in the text, and prompts that are only scored."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.completion_choice import Logprobs

from numoe.coordinator.api.answering import Text
from numoe.coordinator.api.openai.echoes import echo_of
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.messages import StepResult
from tests.coordinator.api.grpc.grpc_serving import FakeWorkers, Running, fake_workers
from tests.coordinator.api.grpc.scripted import Scripted
from tests.coordinator.api.http.openai_serving import MODEL, asked
from tests.coordinator.engine.fake_executor import expected_tokens
from tests.coordinator.tiny_tokenizer import END_ID, LETTERS, TOKENIZER
from tests.model.text.tiny_metadata import scored_metadata, tiny_metadata
from tests.tiny_vocabulary import END_OF_TEXT, byte_spellings

TURN = "<|im_start|>user\nHi<|im_end|>\n"
SPLIT = "é\N{GRINNING FACE}!"  # its tokens are single bytes


def saying(script: str) -> AbstractAsyncContextManager[tuple[Running, AsyncOpenAI]]:
    """The service, which draws the tokens of this text."""
    return asked(workers=Scripted(script))


class LikelyBytes(FakeWorkers):
    """Workers to which those tokens are the likeliest that are single bytes, and no characters."""

    def collect(self, timeout_seconds: float) -> StepResult:
        result = super().collect(timeout_seconds)
        assert result.top_tokens is not None
        return replace(result, top_tokens=result.top_tokens + _bytes(0xA1)[0])


async def told(client: AsyncOpenAI, **fields: Any) -> tuple[str, dict[str, list[Any]], str, int]:
    """Text, logprobs, finish_reason and completion_tokens of an answer, whole, of which a stream must tell the same."""
    asking: Any = {"model": MODEL, "temperature": 0, **fields}
    answer = await client.completions.create(**asking)
    stream = await client.completions.create(**asking, stream=True, stream_options={"include_usage": True})
    *chunks, last = [chunk async for chunk in stream]
    [choice], pieces = answer.choices, [chunk.choices[0] for chunk in chunks]
    assert answer.usage is not None
    assert last.usage is not None
    whole = (choice.text, _lists([choice.logprobs]), choice.finish_reason, answer.usage.completion_tokens)
    streamed = "".join(piece.text for piece in pieces), _lists([piece.logprobs for piece in pieces])
    assert (*streamed, pieces[-1].finish_reason, last.usage.completion_tokens) == whole
    assert last.usage.prompt_tokens == answer.usage.prompt_tokens
    assert last.usage.total_tokens == answer.usage.total_tokens
    return whole


def _lists(told: Sequence[Logprobs | None]) -> dict[str, list[Any]]:
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    return {name: [one for logprobs in told if logprobs for one in getattr(logprobs, name) or ()] for name in names}


@pytest.mark.parametrize("prompt", [TURN, TOKENIZER.encode(TURN)], ids=["text", "ids"])
async def test_an_echo_has_the_control_tokens_of_the_prompt(prompt: Any) -> None:
    async with asked() as (_, client):
        text, logprobs, _, _ = await told(client, prompt=prompt, max_tokens=3, echo=True, logprobs=0)
    assert text[:-3] == TURN
    assert logprobs["tokens"][0] == "<|im_start|>"
    assert "".join(logprobs["tokens"]) == text
    places = zip(logprobs["text_offset"], logprobs["tokens"], strict=True)
    assert all(text.startswith(token, place) for place, token in places)


async def test_a_token_that_the_service_puts_in_front_is_not_in_the_text_but_one_that_was_sent_is() -> None:
    beginning = tiny_metadata(bos_token_id=TOKENIZER.encode(END_OF_TEXT)[0], add_bos_token=True)
    async with asked(tokenizer=Tokenizer.from_metadata(beginning)) as (_, client):
        put, written = [
            await told(client, prompt=prompt, max_tokens=1, echo=True, logprobs=0)
            for prompt in ("ab", f"{END_OF_TEXT}ab")
        ]
        sent = await told(client, prompt=TOKENIZER.encode(f"{END_OF_TEXT}ab"), max_tokens=1, echo=True, logprobs=0)
    assert put[1]["tokens"][:3] == written[1]["tokens"][:3] == [END_OF_TEXT, "a", "b"]
    assert (put[0][:-1], put[1]["text_offset"]) == ("ab", [0, 0, 1, 2])
    behind = len(END_OF_TEXT)
    assert (written[0][:-1], written[1]["text_offset"]) == (f"{END_OF_TEXT}ab", [0, *range(behind, behind + 3)])
    assert sent == written


async def test_the_blank_that_a_vocabulary_puts_before_a_text_is_not_in_it_either() -> None:
    tokenizer = Tokenizer.from_metadata(scored_metadata())
    prompt = "the world</s> the\u2581日本 語"  # of the last character there are only bytes
    async with asked(tokenizer=tokenizer) as (_, client):
        text, logprobs, _, _ = await told(client, prompt=prompt, max_tokens=0, echo=True, logprobs=0)
        sent, _, _, _ = await told(client, prompt=tokenizer.encode("<s>the world"), max_tokens=0, echo=True)
    assert (text, sent) == (prompt, "<s>the world")
    character = [r"bytes:\xe8", r"bytes:\xaa", r"bytes:\x9e"]
    assert logprobs["tokens"] == ["<s>", " the", " world", "</s>", " ", " the", " ", "日本", " ", *character]
    assert logprobs["text_offset"] == [0, 0, 3, 9, 13, 13, 17, 18, 20, 21, 21, 21]


def test_bytes_that_a_vocabulary_lacks_shift_nothing_either() -> None:
    tokens = [spelling for byte, spelling in byte_spellings().items() if byte != 4]
    lacking = tiny_metadata(tokens=tokens, token_type=[1] * 255, merges=[], eos_token_id=None)
    tokenizer = Tokenizer.from_metadata(lacking)
    offsets = echo_of(Text("a\x04\x04b"), tokenizer).new_offsets()
    places = [(tokenizer.token_bytes(token), offsets.place(token)) for token in tokenizer.encode("a\x04\x04b")]
    assert places == [(b"a", 0), (b"b", 3)]


async def test_tokens_of_split_characters_have_spellings_of_their_own_and_shift_nothing() -> None:
    async with saying(SPLIT) as (_, client):
        text, logprobs, reason, _ = await told(client, prompt="x" + SPLIT, max_tokens=50, echo=True, logprobs=0)
    tokens = [r"bytes:\xc3", r"bytes:\xa9", r"bytes:\xf0", r"bytes:\x9f", r"bytes:\x98", r"bytes:\x80", "!"]
    assert (text, reason) == ("x" + SPLIT + SPLIT, "stop")
    assert logprobs["tokens"] == ["x", *tokens, *tokens]
    assert logprobs["text_offset"] == [0, 1, 1, 2, 2, 2, 2, 3, 4, 4, 5, 5, 5, 5, 6]


async def test_a_character_that_nothing_completes_is_one_of_the_text() -> None:
    ids = [token for byte in (0xF0, 0x9F) for token in _bytes(byte)] + TOKENIZER.encode("ab")
    prompt = [*ids, *_bytes(0xC3), *_bytes(0xC3)]
    async with asked() as (_, client):
        text, logprobs, _, _ = await told(client, prompt=prompt, max_tokens=2, echo=True, logprobs=0)
    assert text[:-2] == "\ufffdab\ufffd\ufffd"
    assert logprobs["text_offset"] == [0, 0, 1, 2, 3, 4, 5, 6]


async def test_likeliest_tokens_that_are_no_whole_characters_are_told_apart() -> None:
    async with asked(workers=LikelyBytes(LETTERS)) as (_, client):
        _, logprobs, _, _ = await told(client, prompt="ab", max_tokens=2, logprobs=3)
    for token, likeliest in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True):
        assert list(likeliest) == [r"bytes:\xa1", r"bytes:\xa2", r"bytes:\xa3", token]


@pytest.mark.parametrize("logprobs", [None, 0, 2])
async def test_a_prompt_may_be_scored_and_nothing_drawn(logprobs: int | None) -> None:
    ends_at_once = fake_workers([END_ID])
    async with asked(workers=ends_at_once) as (_, client):
        text, scores, reason, drawn = await told(client, prompt=TURN, max_tokens=0, echo=True, logprobs=logprobs)
    ids = TOKENIZER.encode(TURN)
    assert (text, reason, drawn) == (TURN, "length", 0)
    if logprobs is not None:
        given = [expected_tokens(ids[:count], 1, [END_ID])[0][1] for count in range(1, len(ids))]
        assert scores["token_logprobs"] == [None, *given]
        assert "".join(scores["tokens"]) == TURN
        assert len(scores["text_offset"]) == len(ids)
        assert len(scores["top_logprobs"]) == (len(ids) if logprobs else 0)


async def test_each_of_several_prompts_is_scored() -> None:
    async with asked() as (_, client):
        answer = await client.completions.create(model=MODEL, prompt=["ab", TURN], n=2, max_tokens=0, echo=True)
    assert [choice.text for choice in answer.choices] == ["ab", "ab", TURN, TURN]
    assert answer.usage is not None
    prompts = 2 + len(TOKENIZER.encode(TURN))
    assert (answer.usage.completion_tokens, answer.usage.total_tokens) == (0, prompts)


@pytest.mark.parametrize(
    ("fields", "param", "problem"),
    [
        ({}, "max_tokens", "is 0; expected at least 1"),
        ({"echo": False}, "max_tokens", "is 0; expected at least 1"),
        ({"echo": True, "extra_body": {"min_tokens": 1}}, "min_tokens", "is 1; expected 0"),
    ],
)
async def test_no_token_at_all_is_refused_where_it_makes_no_sense(
    fields: dict[str, Any], param: str, problem: str
) -> None:
    async with asked() as (_, client):
        with pytest.raises(openai.BadRequestError, match=problem) as refused:
            await client.completions.create(model=MODEL, prompt="ab", max_tokens=0, **fields)
    assert refused.value.param == param


def _bytes(byte: int) -> list[int]:
    """The token of a byte that is no character by itself."""
    return [token for token in range(TOKENIZER.vocabulary) if TOKENIZER.token_bytes(token) == bytes([byte])]
