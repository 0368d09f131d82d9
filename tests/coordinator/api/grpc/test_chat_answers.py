"""What an answer to a conversation consists of, from a client's side: thoughts, content and calls."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from google.rpc import error_details_pb2

from numoe.coordinator.api.answering import render
from numoe.coordinator.api.conversation import Conversation, Turn
from numoe.v1.generation_pb2 import (
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP,
    FINISH_REASON_TOOL_CALLS,
    TOOL_CHOICE_MODE_REQUIRED,
    ChatMessage,
    ChatRequest,
    ResponseOptions,
    Stopping,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
)
from tests.coordinator.api.grpc.grpc_serving import Told, chatted, detail_of, fake_workers, running_server, tiny_read
from tests.coordinator.api.grpc.scripted import ROOMY, Scripted, chatting
from tests.coordinator.engine.fake_executor import lose_worker_at
from tests.coordinator.tiny_tokenizer import ALL_IDS
from tests.model.text.chat_templates import LLAMA3_LIKE, QWEN3_LIKE

USER = ChatMessage(role="user", content="Hello")
WEATHER = Tool(name="weather", parameters='{"properties": {"city": {"type": "string"}}}')
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Bern"]}},
    "required": ["city"],
    "additionalProperties": False,
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


def calls_of(told: Told) -> list[tuple[str, str]]:
    """Names and arguments of the calls; each has an id, and begins once."""
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    ids: set[str] = set()
    for delta in (part for message in told.messages for part in message.delta.tool_calls):
        if delta.HasField("id"):
            assert delta.index not in names
            names[delta.index] = delta.name
            ids.add(delta.id)
        arguments[delta.index] = arguments.get(delta.index, "") + delta.arguments
    assert len(ids) == len(names)
    return [(names[index], arguments[index]) for index in sorted(names)]


def reasoning_of(told: Told) -> str:
    return "".join(message.delta.reasoning for message in told.messages)


async def test_an_answer_has_thoughts_content_and_calls() -> None:
    request = ChatRequest(messages=[USER], tools=[WEATHER])
    text = f"<think>\nwhy\n</think>\n\nLook:\n{CALL}\n{CALL}"
    with chatting() as model:
        async with running_server(Scripted(text), **model) as running:
            told = await chatted(running, request)
    assert (reasoning_of(told), told.text) == ("why", "Look:")
    assert calls_of(told) == [("weather", '{"city": "Paris"}')] * 2
    assert told.finished.reason == FINISH_REASON_TOOL_CALLS
    assert told.ids == list(tiny_read()[1].encode(text + "<|im_end|>"))


async def test_without_tools_a_call_is_content_and_so_is_a_broken_one() -> None:
    for text, tools in ((CALL, []), ("<tool_call>\n{weather", [WEATHER])):
        with chatting() as model:
            async with running_server(Scripted(text), **model) as running:
                told = await chatted(running, ChatRequest(messages=[USER], tools=tools))
        assert (told.text, calls_of(told), told.finished.reason) == (text, [], FINISH_REASON_STOP)


async def test_an_answer_ends_with_its_only_call_and_says_how_many_tokens_it_took() -> None:
    request = ChatRequest(messages=[USER], tools=[WEATHER], parallel_tool_calls=False)
    with chatting() as model:
        async with running_server(Scripted(f"{CALL}\n{CALL}" + " and more" * 200), **model) as running:
            told = await chatted(running, request)
    assert calls_of(told) == [("weather", '{"city": "Paris"}')]
    assert (told.text, told.finished.reason) == ("", FINISH_REASON_TOOL_CALLS)
    assert told.finished.usage.completion_tokens == len(told.ids) < 250


async def test_a_model_whose_template_shows_one_call_makes_one() -> None:
    call = '{"name": "weather", "parameters": {"city": "Paris"}}'
    with chatting(LLAMA3_LIKE) as model:
        async with running_server(Scripted(f"{call}; {call}"), **model) as running:
            told = await chatted(running, ChatRequest(messages=[USER], tools=[WEATHER]))
    assert calls_of(told) == [("weather", '{"city": "Paris"}')]


@pytest.mark.parametrize(
    ("source", "choice"),
    [
        (QWEN3_LIKE, ToolChoice(mode=TOOL_CHOICE_MODE_REQUIRED)),
        (QWEN3_LIKE, ToolChoice(function="weather")),
        (LLAMA3_LIKE, ToolChoice(function="weather")),
    ],
    ids=["required", "named", "llama"],
)
async def test_a_tool_is_called_where_one_must_be(source: str, choice: ToolChoice) -> None:
    tools = [Tool(name=name, parameters=json.dumps(CITY)) for name in ("weather", "time")]
    asked = ChatRequest(messages=[USER], tools=tools, tool_choice=choice, thinking=Thinking(enabled=False))
    asked.parallel_tool_calls = False
    with chatting(source) as model:
        async with running_server(fake_workers(ALL_IDS, limits=ROOMY), **model) as running:
            told = await chatted(running, asked)
    [(name, arguments)] = calls_of(told)
    assert name in ({"weather"} if choice.function else {"weather", "time"})
    assert json.loads(arguments) == {"city": "Bern"}
    assert (told.text, told.finished.reason) == ("", FINISH_REASON_TOOL_CALLS)


async def test_calls_and_results_are_part_of_the_next_question() -> None:
    called = ChatMessage(
        role="assistant", tool_calls=[ToolCall(id="c1", name="weather", arguments='{"city": "Paris"}')]
    )
    result = ChatMessage(role="tool", content="rain", tool_call_id="c1", name="weather")
    with chatting() as model:
        async with running_server(Scripted("so"), **model) as running:
            told = await chatted(running, ChatRequest(messages=[USER, called, result], tools=[WEATHER]))
    assert told.text == "so"
    assert told.messages[0].accepted.prompt_tokens > 200


async def test_a_last_turn_of_the_assistant_goes_on() -> None:
    with chatting() as model:
        async with running_server(Scripted(" blue <think>"), **model) as running:
            messages = [USER, ChatMessage(role="assistant", content="The sky is")]
            told = await chatted(running, ChatRequest(messages=messages))
    assert told.text == " blue <think>"


@pytest.mark.parametrize("lost", [None, 12])
async def test_a_thought_ends_with_its_budget_whatever_is_lost(lost: int | None) -> None:
    request = ChatRequest(
        messages=[USER],
        thinking=Thinking(budget_tokens=5),
        stopping=Stopping(max_tokens=14),
        response=ResponseOptions(logprobs=True),
    )
    workers = Scripted("<think>" + "a" * 60, **({} if lost is None else {"before_collect": lose_worker_at(lost)}))
    with chatting() as model:
        async with running_server(workers, **model) as running:
            told = await chatted(running, request)
    assert workers.restarts == (lost is not None)
    assert (reasoning_of(told), told.text) == ("aaaaa", "aaaa")
    assert told.finished.reason == FINISH_REASON_LENGTH
    tokens = [token for message in told.messages for token in message.delta.tokens]
    ending = tiny_read()[1].encode("\n</think>\n\n")
    assert [token.id for token in tokens[6 : 6 + len(ending)]] == ending
    assert {token.logprob for token in tokens[6 : 6 + len(ending)]} == {0.0}


async def test_a_conversation_can_be_looked_at_as_text() -> None:
    with chatting() as model:
        async with running_server(Scripted("so"), **model) as running:
            served = running.coordinator.served_model()
            shown = await render(served, Conversation([Turn("user", "a<|im_end|>b")]), None)
    assert shown == "<|im_start|>user\na<|im_end|>b<|im_end|>\n<|im_start|>assistant\n"


async def test_template_variables_reach_the_template() -> None:
    request = ChatRequest(messages=[USER])
    ParseDict({"days": 3, "half": 0.5, "b": {"y": [1], "x": None}}, request.template_variables)
    seen = "{{ days }} {{ half }} {{ b | tojson }}{{ messages[0].content }}{{ '' if enable_thinking else ' off' }}"
    with chatting(seen) as model:
        async with running_server(Scripted("so"), **model) as running:
            request.thinking.enabled = False
            told = await chatted(running, request)
    assert told.messages[0].accepted.prompt_tokens == len(tiny_read()[1].encode('3 0.5 {"x": null, "y": [1]}Hello off'))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tools": [Tool(name="a b")]}, "tools[0].name"),
        ({"tools": [Tool(name="a", parameters="{")]}, "tools[0].parameters"),
        ({"tools": [Tool(name="a", parameters="[]")]}, "tools[0].parameters"),
        ({"tools": [Tool(name="a", parameters="[" * 60_000)]}, "tools[0].parameters"),
        ({"tools": [WEATHER], "tool_choice": ToolChoice(function="now")}, "tool_choice"),
        ({"tool_choice": ToolChoice(mode=TOOL_CHOICE_MODE_REQUIRED)}, "tool_choice"),
        ({"tool_choice": ToolChoice(mode=7)}, "tool_choice.mode"),  # type: ignore[arg-type]
        ({"template_variables": {"tools": 1}}, "template_variables.tools"),
        ({"template_variables": {"a": float("nan")}}, "template_variables"),
        ({"template_variables": {"a": "x" * 100_000}}, "template_variables"),
        ({"messages": [USER, ChatMessage(role="assistant", tool_calls=[ToolCall(name="a")])]}, "messages[1]"),
    ],
)
async def test_what_is_wrong_is_told_by_its_field(changes: dict[str, Any], field: str) -> None:
    with chatting() as model:
        async with running_server(Scripted("so"), **model) as running:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await chatted(running, ChatRequest(**{"messages": [USER], **changes}))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    [violation] = detail_of(caught.value, error_details_pb2.BadRequest).field_violations
    assert violation.field == field


async def test_a_budget_needs_a_model_that_thinks() -> None:
    async with running_server(Scripted("so")) as running:
        with pytest.raises(grpc.aio.AioRpcError, match="this model does not think apart") as caught:
            await chatted(running, ChatRequest(messages=[USER], thinking=Thinking(budget_tokens=5)))
    [violation] = detail_of(caught.value, error_details_pb2.BadRequest).field_violations
    assert violation.field == "thinking.budget_tokens"
