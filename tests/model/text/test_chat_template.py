"""Chat templates render as Jinja2 renders them, and refuse messages that do not fit."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import cache
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from numoe.model.gguf.model_file import open_gguf
from numoe.model.made_up.alphabet_vocabulary import CHAT_TEMPLATE
from numoe.model.made_up.demo import find_source
from numoe.model.text.chat_template import ChatTemplate
from numoe.model.text.template_process import prepare
from numoe.protos.errors import InvalidRequest
from tests.model.text.chat_templates import QWEN3_LIKE, USER, started

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"ort": "<Zürich>", "n": [1, 2.5, None]}}}]


@cache
def smollm_source() -> str:
    source = open_gguf(find_source()).metadata["tokenizer.chat_template"]
    assert isinstance(source, str)
    return source


@cache
def template(name: str) -> ChatTemplate:
    return ChatTemplate(source(name), "<s>", "</s>")


def source(name: str) -> str:
    return {"qwen3": QWEN3_LIKE, "synthetic": CHAT_TEMPLATE}.get(name) or smollm_source()


def by_jinja2(source: str, messages: list[dict[str, Any]], **context: Any) -> str:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    context = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True, **context}
    return environment.from_string(prepare(source)).render(messages=messages, **context)


OPTIONS: list[dict[str, Any]] = [{}, {"tools": TOOLS}, {"enable_thinking": False}]
WORDS = st.text(max_size=8) | st.sampled_from(
    ["<think>", "</think>", "\n", "<tool_response>", "</tool_response>", "é😀"]
)
CONTENTS = st.lists(WORDS, max_size=5).map("".join)
CALLS = st.lists(
    st.builds(
        lambda name, value: {"function": {"name": name, "arguments": value}},
        st.text(max_size=5),
        st.text(max_size=5)
        | st.dictionaries(st.text(max_size=3), st.integers() | st.none() | st.booleans(), max_size=3),
    ),
    max_size=2,
)
MESSAGES = st.builds(
    lambda role, content: {"role": role, "content": content}, st.sampled_from(["user", "tool"]), CONTENTS
)
SYSTEM = st.builds(lambda content: {"role": "system", "content": content}, CONTENTS)
ANSWERS = st.builds(
    lambda content, calls: {"role": "assistant", "content": content, "tool_calls": calls}, CONTENTS, CALLS
)
CONVERSATIONS = st.builds(
    lambda system, rest: system + rest,
    st.lists(SYSTEM, max_size=1),
    st.lists(MESSAGES | ANSWERS, min_size=1, max_size=6),
)


@pytest.mark.parametrize("name", ["smollm", "qwen3", "synthetic"])
@settings(derandomize=True, max_examples=60)
@given(messages=CONVERSATIONS, prompt=st.booleans(), options=st.sampled_from(OPTIONS))
def test_conversations_render_as_jinja2_renders_them(
    name: str, messages: list[dict[str, Any]], prompt: bool, options: dict[str, Any]
) -> None:
    expected = by_jinja2(source(name), messages, add_generation_prompt=prompt, **options)
    assert template(name).render(messages, add_generation_prompt=prompt, **options) == expected


@pytest.mark.parametrize(
    "text",
    [
        "{{ bos_token }}{{ messages }}{{ eos_token }}",
        "{{ none }}|{{ true }}|{{ 1.0 }}|{{ 7 // 2 }}|{{ [1, 'a', none] }}|{{ {'a': false} }}",
        "{{ messages | tojson }}",
        "{% for m in messages %}\n  {% if loop.last %}\n    {{ m['content'] | trim }}\n  {% endif %}\n{% endfor %}",
        "{% for key, value in messages[0].items() %}{{ key }}={{ value | upper }};{% endfor %}",
        "{% macro turn(m, end='.') %}{{ m.get('role', '?') }}{{ end }}{% endmacro %}{{ turn(messages[0]) }}",
        "{{ messages[0].content[1:3] }}{{ messages[0].content.split(' ')[-1] }}{{ 'a' ~ none ~ 1 }}",
        "{% generation %}{{ messages[0].content }}{%- endgeneration -%} x",
        "{{ undefined_name }}{{ messages[0].name is defined }}{{ messages | map(attribute='role') | join(',') }}\n",
    ],
)
def test_the_language_is_that_of_jinja2(text: str) -> None:
    with started(text) as chat_template:
        assert chat_template.render(USER) == by_jinja2(text, USER)


def test_a_conversation_of_smollm_is_the_known_text() -> None:
    assert template("smollm").render([{"role": "user", "content": "Hi"}]) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_json_is_not_escaped_for_html_and_takes_options() -> None:
    with started("{{ messages[0].content | tojson }}{{ [1] | tojson(indent=2) }}") as chat_template:
        assert chat_template.render(USER) == "\"Hi <b> & 'you' 😀\"[\n  1\n]"


def test_the_date_can_be_asked_for() -> None:
    with started("{{ strftime_now('%Y') }}") as chat_template:
        assert abs(int(chat_template.render(USER)) - datetime.now().year) <= 1


def test_what_is_none_counts_as_not_given() -> None:
    with started("{{ tools is defined }}") as chat_template:
        assert chat_template.render(USER, tools=None) == "False"


def test_any_mapping_is_a_message() -> None:
    messages = (MappingProxyType({"role": "user", "content": MappingProxyType({"a": 1})}),)
    with started("{{ messages[0].content | tojson }}") as chat_template:
        assert chat_template.render(messages) == '{"a": 1}'


def test_a_refusal_by_the_template_is_the_requests_fault() -> None:
    with pytest.raises(InvalidRequest, match=r"messages: .*refuses them: unknown role judge"):
        template("qwen3").render([*USER, {"role": "judge", "content": "x"}])


@pytest.mark.parametrize(
    "messages", [[{"role": "user"}], [{"content": object()}], [{"content": {"a": float}}], [{"role": "\ud800"}]]
)
def test_messages_that_do_not_fit_the_template_are_the_requests_fault(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(InvalidRequest, match=r"^messages: "):
        template("synthetic").render(messages)


@pytest.mark.parametrize(("size", "said"), [(1 << 20, "the prompt takes"), (5 << 20, "they take")])
def test_too_long_a_conversation_is_refused(size: int, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        template("synthetic").render([{"role": "user", "content": "x" * size}])
    assert template("synthetic").render(USER)


def test_threads_share_a_template() -> None:
    with started("{{ messages[0].content }}") as chat_template, ThreadPoolExecutor(8) as threads:
        texts = [str(number) * 1000 for number in range(200)]
        rendered = threads.map(lambda text: chat_template.render([{"content": text}]), texts)
        assert list(rendered) == texts
