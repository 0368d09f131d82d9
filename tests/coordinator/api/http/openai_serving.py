"""A service over real HTTP with fake workers, which draw letters or what a script says, and real clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from numoe.model.chat.formats import find_formats
from numoe.model.text.chat_template import ChatTemplate
from tests.coordinator.api.grpc.grpc_serving import PATIENCE_SECONDS, FakeWorkers, Running, running_server
from tests.coordinator.api.grpc.scripted import ROOMY, Scripted
from tests.coordinator.tiny_tokenizer import ALL_IDS

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


def scripted(*scripts: str) -> AbstractAsyncContextManager[tuple[AsyncOpenAI, AsyncAnthropic]]:
    """The same, which answers so; of several the first time with the first."""
    return answering(Scripted(*scripts))


def unscripted() -> AbstractAsyncContextManager[tuple[AsyncOpenAI, AsyncAnthropic]]:
    """The same, which answers with whatever it may."""
    return answering(FakeWorkers(ALL_IDS, limits=ROOMY))


def client_of(running: Running) -> AsyncOpenAI:
    url = f"http://{running.ready.http}/v1"
    return AsyncOpenAI(api_key="none", base_url=url, max_retries=0, timeout=PATIENCE_SECONDS)


def anthropic_client_of(running: Running) -> AsyncAnthropic:
    url = f"http://{running.ready.http}"
    return AsyncAnthropic(api_key="none", base_url=url, max_retries=0, timeout=PATIENCE_SECONDS)
