"""OpenAI's own client, unchanged, against the real door and engine over fake workers."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from numoe.protos.messages import Sampling
from tests.coordinator.api.grpc.grpc_serving import fake_workers
from tests.coordinator.api.http.openai_serving import HELLO, MODEL, asked, scripted
from tests.coordinator.engine.fake_executor import expected_tokens
from tests.coordinator.tiny_tokenizer import END_ID, LETTERS, TOKENIZER, text_of

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALLING = (
    '<think>\nIt rains.\n</think>\n\n<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
)


def drawn(prompt: str, count: int, sampling: Sampling) -> str:
    """What fake workers answer to a text."""
    return text_of([token for token, _ in expected_tokens(TOKENIZER.encode(prompt), count, LETTERS, sampling)])


def prompt_of(content: str) -> str:
    return f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


async def test_a_chat_is_what_the_engine_answers_to_the_templates_prompt() -> None:
    async with asked() as (_, client):
        answer = await client.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=8, seed=5, temperature=0.7, top_p=0.9
        )
    [choice] = answer.choices
    assert choice.message.content == drawn(prompt_of("hello"), 8, Sampling(temperature=0.7, top_p=0.9, seed=5))
    assert (choice.finish_reason, answer.model, choice.logprobs) == ("length", MODEL, None)
    assert answer.usage is not None
    prompt = len(TOKENIZER.encode(prompt_of("hello")))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (prompt, 8)
    assert answer.usage.total_tokens == prompt + 8
    timings = answer.model_extra["timings"] if answer.model_extra else {}
    assert (timings["prompt_n"], timings["predicted_n"]) == (prompt, 8)
    assert min(timings["prompt_ms"], timings["predicted_per_second"]) > 0


async def test_a_stream_holds_the_same_text_and_ends_with_the_usage() -> None:
    asking: Any = {"model": MODEL, "messages": HELLO, "max_tokens": 50, "seed": 1}
    async with asked() as (_, client):
        whole = await client.chat.completions.create(**asking)
        stream = await client.chat.completions.create(**asking, stream=True, stream_options={"include_usage": True})
        *chunks, last = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
    assert last.choices == []
    assert last.usage is not None
    assert whole.usage is not None
    assert last.usage.total_tokens == whole.usage.total_tokens == 50 + whole.usage.prompt_tokens
    assert {chunk.usage for chunk in chunks} == {None}


async def test_each_token_has_its_logprob_but_not_the_one_that_ends_the_answer() -> None:
    workers = fake_workers([LETTERS[0], LETTERS[1], END_ID])
    async with asked(workers=workers) as (_, client):
        answer = await client.chat.completions.create(model=MODEL, messages=HELLO, seed=2, logprobs=True)
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, seed=2, logprobs=True, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
    [choice] = answer.choices
    ids = TOKENIZER.encode(prompt_of("hello"))
    expected = expected_tokens(ids, 200, [LETTERS[0], LETTERS[1], END_ID], Sampling(temperature=1.0, seed=2))
    before_end = expected[: [token for token, _ in expected].index(END_ID)]
    assert choice.finish_reason == "stop"
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    told = [(bytes(one.bytes or ()), one.logprob) for one in choice.logprobs.content]
    assert told == [(TOKENIZER.token_bytes(token), logprob) for token, logprob in before_end]
    streamed = [one for chunk in chunks if chunk.logprobs for one in chunk.logprobs.content or ()]
    assert streamed == choice.logprobs.content


async def test_choices_differ_by_seeds_that_follow_from_the_requests_own() -> None:
    async with asked() as (_, client):
        asking: Any = {"model": MODEL, "messages": HELLO, "max_tokens": 12, "seed": 9}
        three = await client.chat.completions.create(**asking, n=3)
        again = await client.chat.completions.create(**asking, n=3)
        one = await client.chat.completions.create(**asking)
        stream = await client.chat.completions.create(**asking, n=3, stream=True)
        texts = ["", "", ""]
        async for chunk in stream:
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    contents = [choice.message.content for choice in three.choices]
    assert contents == [choice.message.content for choice in again.choices] == texts
    assert (len(set(contents)), contents[0]) == (3, one.choices[0].message.content)
    assert three.usage is not None
    assert one.usage is not None
    assert (three.usage.prompt_tokens, three.usage.completion_tokens) == (one.usage.prompt_tokens, 36)


async def test_text_goes_on_where_each_of_several_prompts_ends() -> None:
    async with asked() as (_, client):
        texts = await client.completions.create(
            model=MODEL, prompt=["ab", "cd"], n=2, max_tokens=6, temperature=0, logprobs=0
        )
        ids = await client.completions.create(model=MODEL, prompt=TOKENIZER.encode("ab"), max_tokens=6, temperature=0)
        stream = await client.completions.create(
            model=MODEL, prompt=[TOKENIZER.encode("ab")], max_tokens=6, temperature=0, stream=True
        )
        streamed = [chunk.choices[0] async for chunk in stream]
    expected = [drawn(prompt, 6, Sampling()) for prompt in ("ab", "ab", "cd", "cd")]
    assert [choice.text for choice in texts.choices] == expected
    assert [choice.index for choice in texts.choices] == [0, 1, 2, 3]
    assert ids.choices[0].text == expected[0] == "".join(choice.text for choice in streamed)
    assert streamed[-1].finish_reason == "length"
    logprobs = texts.choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or ()) == expected[0]
    assert logprobs.text_offset == list(range(6))
    assert logprobs.token_logprobs == [p for _, p in expected_tokens(TOKENIZER.encode("ab"), 6, LETTERS)]
    assert texts.usage is not None
    assert (texts.usage.prompt_tokens, texts.usage.completion_tokens) == (4, 24)


async def test_stop_strings_end_an_answer_and_more_tokens_than_fit_are_as_many_as_do() -> None:
    async with asked() as (_, client):
        asking: Any = {"model": MODEL, "messages": HELLO, "seed": 3, "extra_body": {"ignore_eos": True}}
        all_that_fits = await client.chat.completions.create(**asking, max_completion_tokens=100_000)
        text = all_that_fits.choices[0].message.content or ""
        cut = await client.chat.completions.create(**asking, stop=text[5:9])
    assert all_that_fits.usage is not None
    assert all_that_fits.usage.total_tokens == 256
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == (text[: text.index(text[5:9])], "stop")


async def test_thoughts_and_calls_of_tools_are_told_apart_from_content() -> None:
    asking: Any = {"model": MODEL, "messages": HELLO, "tools": [TOOL]}
    async with scripted(CALLING) as (client, _):
        whole = await client.chat.completions.create(**asking)
        stream = await client.chat.completions.create(**asking, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
    message = whole.choices[0].message
    assert (message.content, whole.choices[0].finish_reason) == (None, "tool_calls")
    assert message.model_extra is not None
    assert message.model_extra["reasoning_content"].strip() == "It rains."
    assert message.tool_calls is not None
    [call] = message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Bern"})
    told = [one for chunk in chunks for one in chunk.delta.tool_calls or ()]
    assert {one.index for one in told} == {0}
    assert [one.function.name for one in told if one.function and one.function.name] == ["weather"]
    arguments = "".join(one.function.arguments or "" for one in told if one.function)
    assert (json.loads(arguments), chunks[-1].finish_reason) == ({"city": "Bern"}, "tool_calls")


async def test_an_agents_second_turn_carries_the_call_and_its_result() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    turns: Any = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "rain"}]},
    ]
    async with scripted("It rains.") as (client, _):
        answer = await client.chat.completions.create(
            model=MODEL, messages=turns, tools=[TOOL], reasoning_effort="none"
        )
        url = str(client.base_url).replace("/v1/", "/apply-template")
        prompt = await client.post(url, body={"messages": turns}, cast_to=dict[str, str])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("It rains.", "stop")
    assert '<tool_call>{"name": "weather", "arguments": {"city": "Bern"}}</tool_call>' in prompt["prompt"]
    assert "<|im_start|>tool\nrain<|im_end|>" in prompt["prompt"]


@pytest.mark.parametrize(
    ("given", "kind", "param", "told"),
    [
        ({"model": "other"}, openai.NotFoundError, "model", "this service serves 'tiny qwen3moe'"),
        ({"temperature": 1000}, openai.BadRequestError, "temperature", "is 1000.0"),
        ({"top_p": "much"}, openai.BadRequestError, "top_p", "got `str`"),
        ({"n": 9}, openai.BadRequestError, "n", "expected 1 to 8"),
        ({"messages": []}, openai.BadRequestError, "messages", "is empty"),
        ({"messages": [{"content": "x"}]}, openai.BadRequestError, "messages[0].role", "is missing"),
        ({"messages": [{"role": "user", "content": "x" * 2000}]}, openai.BadRequestError, "messages", "context"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            openai.BadRequestError,
            "messages[0].content[0]",
            "text only",
        ),
        ({"stop": ["x"] * 17}, openai.BadRequestError, "stop", "at most 16"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens", "at least 1"),
        ({"tool_choice": "weather"}, openai.BadRequestError, "tool_choice", "expected auto"),
        ({"tool_choice": "required"}, openai.BadRequestError, "tool_choice", "expected tools"),
        ({"logprobs": True, "top_logprobs": 21}, openai.BadRequestError, "top_logprobs", "expected 0 to 20"),
        ({"top_logprobs": 3}, openai.BadRequestError, "top_logprobs", "without logprobs"),
        ({"logit_bias": {"5": 101}}, openai.BadRequestError, "logit_bias", "expected -100 to 100"),
        ({"logit_bias": {"five": 1}}, openai.BadRequestError, "logit_bias", "expected `int`"),
        ({"extra_body": {"dry_multiplier": 1, "dry_base": 0}}, openai.BadRequestError, "dry_base", "1 to 100"),
        (
            {"extra_body": {"chat_template_kwargs": {"messages": []}}},
            openai.BadRequestError,
            "chat_template_kwargs.messages",
            "by the service itself",
        ),
    ],
)
async def test_what_cannot_be_served_is_told_as_openai_does(
    given: dict[str, Any], kind: type[openai.APIStatusError], param: str, told: str
) -> None:
    async with asked() as (_, client):
        with pytest.raises(kind) as refused:
            await client.chat.completions.create(**({"model": MODEL, "messages": HELLO} | given))
    body: Any = refused.value.body
    assert (body["type"], body["param"]) == ("invalid_request_error", param)
    assert told in body["message"]
    assert refused.value.response.headers["x-request-id"]


async def test_a_conversation_that_does_not_fit_is_known_by_code_message_and_numbers() -> None:
    """By which clients of OpenAI's API, of proxies and of llama-server see that they have to shorten it."""
    async with asked() as (running, client):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x" * 2000}])
        context = running.coordinator.served_model().limits.context_tokens
    body: Any = refused.value.body
    assert refused.value.code == "context_length_exceeded"
    assert body["message"].startswith(f"This model's maximum context length is {context} tokens. messages: ")
    assert (body["n_ctx"], body["n_prompt_tokens"] > context) == (context, True)


async def test_fields_that_nobody_knows_and_nulls_are_left_aside() -> None:
    body = {"chat_template_kwargs": {"enable_thinking": False}, "unheard_of": [1], "temperature": None, "tools": None}
    async with asked() as (_, client):
        answer = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=3, extra_body=body)
    assert answer.choices[0].finish_reason == "length"
