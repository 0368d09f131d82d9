"""An agent of Pydantic AI, unchanged: it asks, runs tools that the model calls, and goes on until it has its answer."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, NativeOutput
from pydantic_ai.messages import ModelMessage, ThinkingPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

from tests.coordinator.api.http.openai_serving import MODEL, scripted, unscripted

QUESTION = "Do I need an umbrella in Bern?"
THOUGHT = "<think>\nI ask.\n</think>\n\n"
JSON = '{"city": "Bern", "umbrella": true}'


class Advice(BaseModel):
    """What the agent is asked for."""

    city: Literal["Bern", "Rome"]
    umbrella: bool


ADVICE = Advice(city="Bern", umbrella=True)


def call(name: str, arguments: str) -> str:
    """A call as the model writes it."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


WEATHER = call("weather", '{"city": "Bern"}')


def agent_of(client: AsyncOpenAI, output: Any = str) -> tuple[Agent[object, Any], list[str]]:
    """An agent with a tool, and the cities that this one was asked for."""
    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=client))
    agent: Agent[object, Any] = Agent(model, output_type=output, instructions="Help people to pack.")
    cities: list[str] = []

    @agent.tool_plain
    def weather(city: str) -> str:
        """Tells the weather."""
        cities.append(city)
        if city == "Berne":
            raise ModelRetry("nobody knows Berne: try Bern")
        return f"rain in {city}"

    return agent, cities


async def ended(agent: Agent[object, Any], stream: bool) -> tuple[Any, list[ModelMessage], list[Any]]:
    """What the agent has in the end, all that was said, and its answer while it came."""
    if not stream:
        run = await agent.run(QUESTION)
        return run.output, run.all_messages(), []
    async with agent.run_stream(QUESTION) as streamed:
        parts = [part async for part in streamed.stream_output(debounce_by=None)]
        return await streamed.get_output(), streamed.all_messages(), parts


def parts_of(messages: list[ModelMessage], kind: type[Any]) -> list[Any]:
    return [part for message in messages for part in message.parts if isinstance(part, kind)]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("output", "last", "expected"),
    [
        (str, "It rains.", "It rains."),
        (Advice, call("final_result", JSON), ADVICE),  # asked with tool_choice "required"
        (NativeOutput(Advice), JSON, ADVICE),  # asked with response_format "json_schema"
    ],
    ids=["text", "tool", "schema"],
)
async def test_an_agent_runs_the_tool_and_has_its_answer(output: Any, last: str, expected: Any, stream: bool) -> None:
    async with scripted(THOUGHT + WEATHER, last) as (client, _):
        agent, cities = agent_of(client, output)
        answer, messages, parts = await ended(agent, stream)
    assert (answer, cities) == (expected, ["Bern"])
    assert [part.content for part in parts_of(messages, ThinkingPart)] == ["I ask."]
    [called, *_], [returned, *_] = parts_of(messages, ToolCallPart), parts_of(messages, ToolReturnPart)
    assert (returned.tool_call_id, returned.content) == (called.tool_call_id, "rain in Bern")
    assert bool(parts) == stream
    assert parts[-1:] in ([], [expected])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_agent_runs_several_calls_of_one_turn(stream: bool) -> None:
    rome = call("weather", '{"city": "Rome"}')
    async with scripted(f"{WEATHER}\n{rome}", "It rains everywhere.") as (client, _):
        agent, cities = agent_of(client)
        answer, messages, _ = await ended(agent, stream)
    assert (answer, sorted(cities)) == ("It rains everywhere.", ["Bern", "Rome"])
    called, returned = parts_of(messages, ToolCallPart), parts_of(messages, ToolReturnPart)
    assert [one.tool_call_id for one in called] == [one.tool_call_id for one in returned]
    assert [one.content for one in returned] == ["rain in Bern", "rain in Rome"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("wrong", ['{"city": "Berne"}', '{"town": "Bern"}'], ids=["result", "arguments"])
async def test_an_agent_tells_the_model_what_was_wrong_and_it_calls_again(wrong: str, stream: bool) -> None:
    async with scripted(call("weather", wrong), WEATHER, "It rains.") as (client, _):
        agent, cities = agent_of(client)
        answer, messages, _ = await ended(agent, stream)
    assert (answer, cities[-1]) == ("It rains.", "Bern")
    returned, called = parts_of(messages, ToolReturnPart), parts_of(messages, ToolCallPart)
    assert [one.outcome for one in returned] == ["retried", "success"]
    assert [one.tool_call_id for one in returned] == [one.tool_call_id for one in called]


@pytest.mark.parametrize("output", [Advice, NativeOutput(Advice)], ids=["tool", "schema"])
async def test_an_agent_has_its_types_of_a_model_that_draws_at_random(output: Any) -> None:
    async with unscripted() as (client, _):
        model = OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=client))
        agent: Agent[object, Any] = Agent(model, output_type=output, retries=0)
        asked = [
            await agent.run(QUESTION, model_settings=ModelSettings(seed=seed, parallel_tool_calls=False))
            for seed in range(3)
        ]
    assert {type(run.output) for run in asked} == {Advice}
