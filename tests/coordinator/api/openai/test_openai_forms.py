"""Answers in a form that OpenAI's own client asks for, and that other servers' fields ask for, over fake workers."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel, Field

from tests.coordinator.api.grpc.grpc_serving import fake_workers
from tests.coordinator.api.grpc.scripted import ROOMY
from tests.coordinator.api.http.openai_serving import HELLO, MODEL, asked, scripted, unscripted
from tests.coordinator.engine.fake_executor import expected_tokens
from tests.coordinator.tiny_tokenizer import ALL_IDS, LETTERS, TOKENIZER

SCHEMA = {"type": "object", "properties": {"n": {"enum": [1, 22]}}, "required": ["n"], "additionalProperties": False}
OBJECT = r'\{\s*"n"\s*:\s*(1|22)\s*\}'
LARK = 'start: "a" | "b" start\n'
ASKING: dict[str, Any] = {"model": MODEL, "messages": HELLO, "seed": 7, "max_tokens": 600}


class Weather(BaseModel):
    """What is to be told."""

    city: Literal["Bern", "Rome"]
    degrees: Annotated[int, Field(ge=-40, le=50)]
    windy: bool


CITY = {"type": "object", "properties": {"city": {"enum": ["Bern", "Rome"]}}, "required": ["city"]}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": CITY | {"additionalProperties": False}}}
    for name in ("weather", "time")
]


def free() -> Any:
    """Workers that would draw anything, in a context with room for it."""
    return asked(workers=fake_workers(ALL_IDS, limits=ROOMY))


async def said(client: AsyncOpenAI, **fields: Any) -> str:
    """The content of an answer that came to its end."""
    answer = await client.chat.completions.create(**ASKING, extra_body=fields)
    assert answer.choices[0].finish_reason == "stop"
    return answer.choices[0].message.content or ""


async def test_parsed_answers_are_what_the_class_describes() -> None:
    async with free() as (_, client):
        answer = await client.chat.completions.parse(**ASKING, n=3, response_format=Weather)
    parsed = [choice.message.parsed for choice in answer.choices]
    assert all(isinstance(one, Weather) for one in parsed)
    assert len({str(one) for one in parsed}) > 1  # each choice follows the grammar by itself


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}}, OBJECT),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, OBJECT),
        ({"guided_json": json.dumps(SCHEMA)}, OBJECT),
        ({"json_schema": SCHEMA}, OBJECT),
        ({"structured_outputs": {"json": SCHEMA}}, OBJECT),
        ({"guided_regex": "[ab]{5}"}, "[ab]{5}"),
        ({"structured_outputs": {"regex": "[ab]{5}"}}, "[ab]{5}"),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
        ({"guided_grammar": LARK}, "b*a"),
        ({"grammar": LARK}, "b*a"),
    ],
    ids=lambda given: "" if isinstance(given, str) else str(next(iter(given))),
)
async def test_each_field_that_clients_know_gives_the_answer_its_form(fields: dict[str, Any], pattern: str) -> None:
    async with free() as (_, client):
        assert re.fullmatch(pattern, await said(client, **fields))


async def test_a_completion_takes_a_form_too() -> None:
    async with free() as (_, client):
        answer = await client.completions.create(model=MODEL, prompt="ab", extra_body={"guided_regex": "[0-9]{4}"})
    assert re.fullmatch("[0-9]{4}", answer.choices[0].text)


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type", "'json_schema'"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema", "is missing"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex", "one of them"),
        ({"grammar": 'root ::= "a"'}, "grammar", "is GBNF; expected Lark"),
        ({"guided_regex": "(a"}, "guided_regex", "regex parse error"),
        ({"guided_json": "[1]"}, "guided_json", "expected an object"),
        ({"guided_choice": []}, "guided_choice", "at least one text"),
    ],
)
async def test_what_is_no_form_is_told_by_its_field(fields: dict[str, Any], param: str, told: str) -> None:
    async with free() as (_, client):
        with pytest.raises(openai.BadRequestError, match=re.escape(told)) as refused:
            await said(client, **fields)
    assert refused.value.param == param


async def test_a_grammar_that_comes_to_a_limit_late_is_told_by_its_field_too() -> None:
    async with free() as (_, client):
        with pytest.raises(openai.BadRequestError, match="came to an end") as refused:
            await said(client, guided_grammar='start: s\ns: s s | s s s | "a" | \n')
    assert refused.value.param == "guided_grammar"


async def test_a_strict_schema_is_obeyed_whole_or_refused_and_another_as_far_as_it_goes() -> None:
    wanted: dict[str, Any] = {"name": "n", "schema": SCHEMA | {"not": {"required": ["x"]}}}
    async with free() as (_, client):
        lenient = await said(client, response_format={"type": "json_schema", "json_schema": wanted})
        with pytest.raises(openai.BadRequestError) as refused:
            await said(client, response_format={"type": "json_schema", "json_schema": wanted | {"strict": True}})
    assert re.fullmatch(OBJECT, lenient)
    assert refused.value.param == "response_format"


async def test_a_form_is_that_of_what_follows_the_thought() -> None:
    async with scripted('<think>\nfree "thought"\n</think>{"n": 22}') as (client, _):
        answer = await client.chat.completions.create(**ASKING, extra_body={"guided_json": SCHEMA})
    message = answer.choices[0].message
    assert (message.content, answer.choices[0].finish_reason) == ('{"n": 22}', "stop")
    assert message.model_extra is not None
    assert message.model_extra["reasoning_content"].strip() == 'free "thought"'


async def test_biases_and_likeliest_tokens_reach_the_engine() -> None:
    [never, *others] = LETTERS
    async with asked() as (running, client):
        biased: Any = ASKING | {"logit_bias": {str(never): -100, str(others[0]): 1.5}, "max_tokens": 4}
        chat = await client.chat.completions.create(**biased, logprobs=True, top_logprobs=2)
        text = await client.completions.create(model=MODEL, prompt="ab", max_tokens=2, logprobs=3)
        chunks = [chunk for step in running.workers.steps for chunk in step.chunks if chunk.sampling]
    assert dict(zip(chunks[0].biases.tokens.tolist(), chunks[0].biases.values.tolist(), strict=True)) == {
        never: -100.0,
        others[0]: 1.5,
    }
    assert [chunk.top for chunk in chunks] == [2] * 4 + [3] * 2
    assert chat.choices[0].logprobs is not None
    told = chat.choices[0].logprobs.content or []
    expected = [(TOKENIZER.token_bytes(token, control=True), -float(token)) for token in range(2)]
    assert [[(bytes(o.bytes or ()), o.logprob) for o in one.top_logprobs] for one in told] == [expected] * 4
    logprobs = text.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.top_logprobs is not None
    assert logprobs.tokens is not None
    for token, likeliest in zip(logprobs.tokens, logprobs.top_logprobs, strict=True):
        assert set(likeliest) == {"!", '"', "#", token}


async def test_samplers_of_llama_server_reach_the_engine() -> None:
    fields = {
        "typical_p": 0.9,
        "top_n_sigma": 1.5,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.2,
        "dry_multiplier": 0.8,
        "dry_allowed_length": 1,
        "dry_penalty_last_n": -1,
        "dry_sequence_breakers": ["."],
    }
    async with asked() as (running, client):
        await client.completions.create(model=MODEL, prompt="abab", max_tokens=1, extra_body=fields)
        await client.completions.create(
            model=MODEL, prompt="abab", max_tokens=1, extra_body=fields | {"top_n_sigma": -1, "dry_penalty_last_n": 0}
        )
        first, second = (chunk for step in running.workers.steps for chunk in step.chunks)
    assert first.sampling is not None
    assert (first.sampling.typical_p, first.sampling.top_n_sigma) == (0.9, 1.5)
    assert (first.sampling.xtc_probability, first.sampling.xtc_threshold) == (0.5, 0.2)
    [a] = TOKENIZER.encode("a")
    assert (first.biases.tokens.tolist(), first.biases.repeats) == ([a], 1)
    assert second.sampling is not None
    assert (second.sampling.top_n_sigma, second.biases.repeats) == (0.0, 0)


async def test_what_was_cached_is_told_as_each_server_tells_it() -> None:
    prompt = "abc" * 20
    async with asked() as (_, client):
        first, second = [
            await client.completions.create(model=MODEL, prompt=prompt, max_tokens=2, temperature=0) for _ in range(2)
        ]
    assert first.usage is not None
    assert second.usage is not None
    assert first.usage.prompt_tokens_details is not None
    assert second.usage.prompt_tokens_details is not None
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert (first.usage.prompt_tokens_details.cached_tokens, cached) == (0, 59)  # all but the last
    timings = (second.model_extra or {})["timings"]
    assert (timings["cache_n"], timings["prompt_n"]) == (59, second.usage.prompt_tokens - 59)
    assert second.choices[0].text == first.choices[0].text


@pytest.mark.parametrize("named", [False, True])
async def test_a_tool_is_called_where_one_must_be(named: bool) -> None:
    choice: Any = {"type": "function", "function": {"name": "time"}} if named else "required"
    names = set()
    async with unscripted() as (client, _):
        for seed in range(10):
            answer = await client.chat.completions.create(
                **ASKING | {"seed": seed, "tools": TOOLS, "tool_choice": choice, "max_tokens": 1500},
                reasoning_effort="none",
                parallel_tool_calls=False,
            )
            [choice_] = answer.choices
            assert (choice_.finish_reason, choice_.message.content) == ("tool_calls", None)
            [call] = choice_.message.tool_calls or []
            assert call.type == "function"
            names.add(call.function.name)
            assert json.loads(call.function.arguments)["city"] in ("Bern", "Rome")
    assert names == ({"time"} if named else {"time", "weather"})


async def test_where_tools_may_be_called_an_answer_has_its_form_or_calls_some() -> None:
    called = said_so = 0
    asking: Any = ASKING | {"tools": TOOLS, "reasoning_effort": "none", "parallel_tool_calls": False}
    async with unscripted() as (client, _):
        for seed in range(8):
            answer = await client.chat.completions.create(**asking | {"seed": seed}, extra_body={"guided_json": SCHEMA})
            message = answer.choices[0].message
            called += bool(message.tool_calls)
            said_so += bool(message.content and re.fullmatch(OBJECT, message.content))
    assert called + said_so == 8
    assert min(called, said_so) > 0


async def test_schemas_of_tools_that_are_none_are_told_as_theirs() -> None:
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "nonsense"}}}
    async with unscripted() as (client, _):
        with pytest.raises(openai.BadRequestError, match="cannot be obeyed") as refused:
            await client.chat.completions.create(**ASKING, tools=[tool], tool_choice="required")
    assert refused.value.param == "tools"


async def test_an_echo_tells_the_prompt_and_how_likely_its_tokens_were() -> None:
    prompt = "abcabd" * 10  # more than one chunk
    async with asked() as (_, client):
        asking: Any = {"model": MODEL, "prompt": prompt, "max_tokens": 3, "temperature": 0}
        plain = await client.completions.create(**asking)
        echoed = await client.completions.create(**asking, echo=True)
        likely = await client.completions.create(**asking, echo=True, logprobs=1)
        stream = await client.completions.create(**asking, echo=True, logprobs=1, stream=True)
        pieces = [chunk.choices[0] async for chunk in stream]
    assert [one.choices[0].text for one in (echoed, likely)] == [prompt + plain.choices[0].text] * 2
    logprobs = likely.choices[0].logprobs
    assert logprobs is not None
    told = logprobs.token_logprobs or []
    ids = TOKENIZER.encode(prompt)
    assert len(told) == len(ids) + 3
    assert told[0] is None
    given = [expected_tokens(ids[:count], 1, LETTERS)[0][1] for count in range(1, len(ids))]
    assert told[1:] == [*given, *(logprob for _, logprob in expected_tokens(ids, 3, LETTERS))]
    assert logprobs.top_logprobs is not None
    assert logprobs.top_logprobs[0] is None
    assert "".join(piece.text for piece in pieces) == likely.choices[0].text
    assert [one for piece in pieces if piece.logprobs for one in piece.logprobs.token_logprobs or ()] == told
