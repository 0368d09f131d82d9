"""A service over real HTTP with fake workers, which draw letters or what a script says, and real clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from numoe.model.chat.formats import find_formats
from numoe.model.text.chat_template import ChatTemplate
from numoe.protos.messages import NOT_DRAWN, Chunk
from tests.coordinator.api.grpc.grpc_serving import PATIENCE_SECONDS, FakeWorkers, Running, running_server
from tests.coordinator.engine.fake_executor import LIMITS
from tests.coordinator.tiny_tokenizer import ALL_IDS, END_ID, LETTERS, TOKENIZER

ROOMY = replace(LIMITS, context_tokens=2048, kv_blocks=512)  # a tiny vocabulary spells tools letter by letter
MODEL = "tiny qwen3moe"
HELLO: list[Any] = [{"role": "user", "content": "hello"}]

# Made up, with what Qwen3's has: tools, calls, and thoughts that can be turned off.
TEMPLATE = """
{%- if tools %}<|im_start|>system
Call tools as <tool_call>{"name": ..., "arguments": ...}</tool_call>.
{%- for tool in tools %} {{ tool | tojson }}{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""


class ScriptedWorkers(FakeWorkers):
    """Workers that draw the tokens of a text, and then the end of the turn, whatever they are asked."""

    def __init__(self, script: str, **options: Any) -> None:
        super().__init__(LETTERS, **options)
        self._script = [*TOKENIZER.encode(script), END_ID]
        self._answers: dict[int, tuple[int, int]] = {}  # of a sequence, by its first block: where it begins and is

    def _run(self, chunk: Chunk) -> list[tuple[int, float]]:
        drawn = super()._run(chunk)
        if not drawn or (len(chunk.given) and chunk.given[-1] != NOT_DRAWN):
            return drawn
        block, position = int(chunk.kv_blocks[0]), chunk.first_position + len(chunk.token_ids)
        first = position if len(chunk.given) else position + 1 - chunk.draws
        begin, last = self._answers.get(block, (first, first))
        if not begin < first <= last + 1:  # another sequence has the block
            begin = first
        self._answers[block] = begin, position
        told, drawn = drawn[: first - position - 1], drawn[first - position - 1 :]
        places = [min(at - begin, len(self._script) - 1) for at in range(first, position + 1)]
        return [*told, *((self._script[place], logprob) for place, (_, logprob) in zip(places, drawn, strict=True))]


@asynccontextmanager
async def asked(**given: Any) -> AsyncIterator[tuple[Running, AsyncOpenAI]]:
    """The service, ready, and a client that asks once."""
    async with running_server(**given) as running, client_of(running) as client:
        yield running, client


@asynccontextmanager
async def answering(workers: FakeWorkers) -> AsyncIterator[tuple[AsyncOpenAI, AsyncAnthropic]]:
    """Clients of a model that knows tools and thoughts."""
    template = ChatTemplate(TEMPLATE, "", "<|im_end|>")
    async with (
        running_server(workers, template=template, formats=find_formats(template)) as running,
        client_of(running) as client,
        anthropic_client_of(running) as other,
    ):
        yield client, other


def scripted(script: str) -> AbstractAsyncContextManager[tuple[AsyncOpenAI, AsyncAnthropic]]:
    """The same, which answers so."""
    return answering(ScriptedWorkers(script, limits=ROOMY))


def unscripted() -> AbstractAsyncContextManager[tuple[AsyncOpenAI, AsyncAnthropic]]:
    """The same, which answers with whatever it may."""
    return answering(FakeWorkers(ALL_IDS, limits=ROOMY))


def client_of(running: Running) -> AsyncOpenAI:
    url = f"http://{running.ready.http}/v1"
    return AsyncOpenAI(api_key="none", base_url=url, max_retries=0, timeout=PATIENCE_SECONDS)


def anthropic_client_of(running: Running) -> AsyncAnthropic:
    url = f"http://{running.ready.http}"
    return AsyncAnthropic(api_key="none", base_url=url, max_retries=0, timeout=PATIENCE_SECONDS)
