"""Anthropic's own client, unchanged, against the real door and engine over fake workers."""

from __future__ import annotations

from typing import Any, Literal

import anthropic
import pydantic
import pytest

from tests.coordinator.api.grpc.grpc_serving import running_server
from tests.coordinator.api.http.openai_serving import HELLO, MODEL, anthropic_client_of, client_of, scripted, unscripted

TOOL: Any = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALLING = (
    '<think>\nHm.\n</think>\n\nI look.<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
)
ASKING: Any = {"model": MODEL, "messages": HELLO, "max_tokens": 200}


async def test_a_message_is_what_openais_api_answers_with_the_same_settings() -> None:
    async with running_server() as running, anthropic_client_of(running) as client, client_of(running) as other:
        greedy = {"temperature": 0}  # which this client has no argument for any more
        message = await client.messages.create(
            model=MODEL, messages=HELLO, max_tokens=9, system="Help.", extra_body=greedy
        )
        turns: Any = [{"role": "system", "content": "Help."}, *HELLO]
        same = await other.chat.completions.create(model=MODEL, messages=turns, max_tokens=9, temperature=0)
        counted = await client.messages.count_tokens(model=MODEL, messages=HELLO, system="Help.")
    [block] = message.content
    assert block.type == "text"
    assert block.text == same.choices[0].message.content
    assert (message.stop_reason, message.role, message.model) == ("max_tokens", "assistant", MODEL)
    assert same.usage is not None
    assert (message.usage.input_tokens, message.usage.output_tokens) == (same.usage.prompt_tokens, 9)
    assert counted.input_tokens == message.usage.input_tokens


async def test_thoughts_text_and_calls_are_blocks_whether_they_are_streamed_or_not() -> None:
    async with scripted(CALLING) as (_, client):
        thinking: Any = {"type": "adaptive"}
        whole = await client.messages.create(**ASKING, tools=[TOOL], thinking=thinking)
        async with client.messages.stream(**ASKING, tools=[TOOL], thinking=thinking) as stream:
            kinds = [event.type async for event in stream]
            streamed = await stream.get_final_message()
    thought, text, call = whole.content
    assert thought.type == "thinking"
    assert thought.thinking.strip() == "Hm."
    assert text.type == "text"
    assert text.text.strip() == "I look."
    assert call.type == "tool_use"
    assert (call.name, call.input, whole.stop_reason) == ("weather", {"city": "Bern"}, "tool_use")
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 3
    assert [block.type for block in streamed.content] == ["thinking", "text", "tool_use"]
    last = streamed.content[-1]
    assert last.type == "tool_use"
    assert (last.input, streamed.stop_reason) == (call.input, "tool_use")
    again, cached = streamed.usage, streamed.usage.cache_read_input_tokens or 0
    assert (again.input_tokens + cached, again.output_tokens) == (whole.usage.input_tokens, whole.usage.output_tokens)
    assert (whole.usage.cache_read_input_tokens, cached > 0) == (0, True)


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
async def test_a_tool_is_called_where_one_must_be(choice: Any) -> None:
    city = {"type": "object", "properties": {"city": {"enum": ["Bern"]}}, "required": ["city"]}
    tool: Any = TOOL | {"input_schema": city | {"additionalProperties": False}}
    async with unscripted() as (_, client):
        message = await client.messages.create(
            **ASKING | {"max_tokens": 1500}, tools=[tool], tool_choice=choice | {"disable_parallel_tool_use": True}
        )
    [call] = message.content
    assert call.type == "tool_use"
    assert (call.name, call.input, message.stop_reason) == ("weather", {"city": "Bern"}, "tool_use")


async def test_an_answer_has_the_form_that_was_asked_for() -> None:
    class City(pydantic.BaseModel):
        name: Literal["Bern", "Basel"]

    async with unscripted() as (_, client):
        parsed = await client.messages.parse(**ASKING, output_format=City)
        older = {"output_format": {"type": "json_schema", "schema": {"enum": ["Bern"]}}}
        message = await client.messages.create(**ASKING, extra_body=older)
    assert parsed.parsed_output in (City(name="Bern"), City(name="Basel"))
    [block] = message.content
    assert block.type == "text"
    assert block.text == '"Bern"'


async def test_tokens_are_counted_of_whatever_could_be_asked_and_of_more() -> None:
    asked: Any = {"model": MODEL, "messages": HELLO, "thinking": {"type": "enabled", "budget_tokens": 1024}}
    long: Any = [{"role": "user", "content": "x" * 2000}]
    async with running_server() as running, anthropic_client_of(running) as client:
        message = await client.messages.create(**asked, max_tokens=2000, extra_body={"temperature": 1e-6, "top_p": 0})
        counted = await client.messages.count_tokens(**asked)
        more = await client.messages.count_tokens(model=MODEL, messages=long)
        with pytest.raises(anthropic.BadRequestError, match="at most 1048576 are counted in one call"):
            await client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "x" * 2_000_000}])
    assert counted.input_tokens == message.usage.input_tokens
    assert more.input_tokens > 2000


async def test_an_agents_second_turn_carries_thoughts_calls_and_results() -> None:
    turns: Any = [
        *HELLO,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": ""},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Bern"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "rain"}]},
                {"type": "text", "text": "And?"},
            ],
        },
    ]
    async with scripted("It rains. STOP. More.") as (_, client):
        message = await client.messages.create(
            model=MODEL, messages=turns, max_tokens=200, tools=[TOOL], stop_sequences=["STOP"]
        )
    [block] = message.content
    assert block.type == "text"
    assert (block.text.strip(), message.stop_reason, message.stop_sequence) == ("It rains.", "stop_sequence", "STOP")


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        (
            {"messages": [{"role": "user", "content": "x" * 2000}]},
            anthropic.BadRequestError,
            "prompt is too long: 2016 tokens > 255 maximum",
        ),
        ({"output_config": {"format": {"type": "grammar", "schema": {}}}}, anthropic.BadRequestError, "format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, anthropic.BadRequestError, "format.schema"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "nothing"}}}},
            anthropic.BadRequestError,
            "output_config.format",
        ),
        ({"model": "other"}, anthropic.NotFoundError, "model: is 'other'"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "max_tokens: is 0"),
        ({"extra_body": {"temperature": -1}}, anthropic.BadRequestError, "temperature: is -1"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, anthropic.BadRequestError, "content[0]"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, anthropic.BadRequestError, "tools[0].type"),
        ({"stop_sequences": ["x"] * 17}, anthropic.BadRequestError, "stop_sequences: has 17"),
        ({"tool_choice": {"type": "tool", "name": "x"}}, anthropic.BadRequestError, "tool_choice: names"),
    ],
)
async def test_what_cannot_be_served_is_told_as_anthropic_does(
    given: dict[str, Any], kind: type[anthropic.APIStatusError], told: str
) -> None:
    async with running_server() as running, anthropic_client_of(running) as client:
        with pytest.raises(kind) as refused:
            await client.messages.create(**(ASKING | given))
    body: Any = refused.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] in ("not_found_error", "invalid_request_error")
    assert told in body["error"]["message"]
    assert body["request_id"] == refused.value.request_id == refused.value.response.headers["x-request-id"]


async def test_every_answer_tells_the_id_by_which_the_log_knows_it() -> None:
    async with running_server() as running, anthropic_client_of(running) as client:
        named = client.with_options(default_headers={"x-request-id": "mine"})
        message = await named.messages.create(**ASKING)
        async with named.messages.stream(**ASKING) as stream:
            async for _ in stream:
                pass
        counted = await client.messages.with_raw_response.count_tokens(model=MODEL, messages=HELLO)
        assert (message.id, message._request_id) == ("msg_mine", "mine")
        assert stream.request_id == "mine"
        assert counted.headers["request-id"]
        for path, status in (("/v1/messages/batches", 404), ("/v1/messages/count_tokens", 405)):
            with pytest.raises(anthropic.APIStatusError) as refused:
                await client.get(path, cast_to=object)
            body: Any = refused.value.body
            assert (refused.value.status_code, body["request_id"]) == (status, refused.value.request_id)
            assert refused.value.request_id
