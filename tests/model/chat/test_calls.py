"""Calls of tools are read in every format, as they come, and what is none stays content."""

from __future__ import annotations

import json

import pytest

from numoe.model.chat.formats import CALLS
from numoe.model.chat.parts import AnswerPart, CallArguments, CallBegins, Content, Reasoning
from numoe.model.chat.reader import AnswerReader
from numoe.model.chat.stages import HELD_CHARACTERS, CallFormat
from tests.model.chat.answers import THINK, TOOLS, read_pieces

FORMATS: dict[str, CallFormat] = dict(CALLS)
QWEN, CODER, LLAMA = FORMATS["<tool_call>"], FORMATS["<parameter="], FORMATS["<|python_tag|>"]
MISTRAL, PHI = FORMATS["[TOOL_CALLS]"], FORMATS["<|tool_call|>"]


def call(index: int, name: str, arguments: str) -> list[AnswerPart]:
    return [CallBegins(index, str(index), name), CallArguments(index, arguments)]


PARIS = '{"city": "Paris"}'
CODER_PARIS = "<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>"
WELL_FORMED: list[tuple[CallFormat, str, list[AnswerPart] | None]] = [
    (
        QWEN,
        f'<think>\nhm\n</think>\n\nLook:\n<tool_call>\n{{"name": "weather", "arguments": {PARIS}}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        [Reasoning("hm"), Content("Look:"), *call(0, "weather", PARIS), *call(1, "now", "{}")],
    ),
    (QWEN, '<tool_call>{"name":"now","arguments":{"a":"}</tool_call>\\""}}</tool_call>', None),
    (QWEN, f'<tool_call>{{"arguments": {PARIS}, "name": "weather"}}</tool_call>', call(0, "weather", PARIS)),
    (QWEN, '<tool_call>{"name": "now"}</tool_call>', call(0, "now", "{}")),
    (QWEN, '<tool_call>{"name": "now", "arguments": "{\\"a\\": 1}"}</tool_call>', call(0, "now", '{"a": 1}')),
    (QWEN, f'<tool_call>{{"function": {{"name": "weather", "arguments": {PARIS}}}}}', call(0, "weather", PARIS)),
    (QWEN, f'<tool_call>{{"name": "other", "arguments": {PARIS}</tool_call>', call(0, "other", PARIS)),
    (
        QWEN,
        '<tool_call>{"name": "now", "arguments": {"a": 1</tool_call>so',
        [*call(0, "now", '{"a": 1'), Content("so")],
    ),
    (QWEN, '<tool_call>{"name": "now", "arguments": {"a": "cut', call(0, "now", '{"a": "cut')),
    (CODER, f"Look:\n\n<tool_call>\n{CODER_PARIS}", [Content("Look:"), *call(0, "weather", PARIS)]),
    (CODER, CODER_PARIS, call(0, "weather", PARIS)),
    (
        CODER,
        '<tool_call><function=weather><parameter=city>\na\n\n"b"\n\n</parameter><parameter=days> 3 </parameter>'
        "<parameter=units>null</parameter></function></tool_call><tool_call><function=now></function></tool_call>",
        [*call(0, "weather", '{"city": "a\\n\\n\\"b\\"\\n", "days": 3, "units": null}'), *call(1, "now", "{}")],
    ),
    (
        CODER,
        "<tool_call><function=weather><parameter=days>soon</parameter><parameter=units>7</parameter></tool_call>",
        call(0, "weather", '{"days": "soon", "units": "7"}'),
    ),
    (
        CODER,
        "<tool_call><function=weather><parameter=days>3</parameter>oh",
        [*call(0, "weather", '{"days": 3}'), Content("oh")],
    ),
    (CODER, "<tool_call><function=weather><parameter=days>3", call(0, "weather", '{"days": 3')),
    (LLAMA, f'{{"name": "weather", "parameters": {PARIS}}}', call(0, "weather", PARIS)),
    (
        LLAMA,
        f'<|python_tag|>{{"type": "function", "name": "weather", "parameters": {PARIS}}}; '
        '{"name": "now", "parameters": {}}',
        [*call(0, "weather", PARIS), *call(1, "now", "{}")],
    ),
    (
        MISTRAL,
        f'[TOOL_CALLS] [{{"name": "weather", "arguments": {PARIS}}}, {{"name": "now", "arguments": {{}}}}]',
        [*call(0, "weather", PARIS), *call(1, "now", "{}")],
    ),
    (
        PHI,
        f'<|tool_call|>[{{"name": "weather", "arguments": {PARIS}}}]<|/tool_call|>ok',
        [*call(0, "weather", PARIS), Content("ok")],
    ),
]
NO_CALLS = [
    (QWEN, "a <tool_call> is an element\n"),
    (QWEN, "see\n<tool_call>\n{a: 1}\n</tool_call>"),
    (QWEN, '<tool_call>{"title": "now"}'),
    (QWEN, '<tool_call>{"name": 5}</tool_call>'),
    (QWEN, '<tool_call>\n{"name": "cut o'),
    (QWEN, "<tool_cal"),
    (CODER, "write <function=x> there"),
    (CODER, "<tool_call>\n<functional>"),
    (CODER, "<tool_call>\n<function=" + "x" * 200 + ">"),
    (LLAMA, '{"name": "nobody", "parameters": {}}'),
    (LLAMA, '{"answer": 42}'),
    (LLAMA, 'Try {"name": "now", "parameters": {}}'),
    (LLAMA, '<|python_tag|>brave_search.call(query="x")'),
    (MISTRAL, "[TOOL_CALLS] none"),
    (QWEN, '<tool_call>{"arguments": "' + "x" * HELD_CHARACTERS + '", "name": "now"}'),
]


@pytest.mark.parametrize(("form", "text", "parts"), WELL_FORMED)
def test_calls_are_read(form: CallFormat, text: str, parts: list[AnswerPart] | None) -> None:
    parts = parts or call(0, "now", '{"a":"}</tool_call>\\""}')
    assert read_pieces([text], form) == parts
    assert read_pieces(text, form) == parts


@pytest.mark.parametrize(("form", "text"), NO_CALLS)
def test_what_is_no_call_is_content_to_the_letter(form: CallFormat, text: str) -> None:
    assert read_pieces([text], form) == [Content(text)]
    assert read_pieces(text[:2000], form) == read_pieces([text[:2000]], form)


@pytest.mark.parametrize(("form", "text", "parts"), WELL_FORMED)
def test_without_tools_nothing_is_a_call(form: CallFormat, text: str, parts: object) -> None:
    reader = AnswerReader(None, form, {})
    assert [*reader.push(text), *reader.finish()] == [Content(text)]
    assert not reader.calls


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (QWEN, '<tool_call>{"name": "weather", "arguments": {"city": "Pa'),
        (CODER, "<tool_call><function=weather><parameter=city>Pa"),
        (LLAMA, '{"name": "weather", "parameters": {"city": "Pa'),
        (MISTRAL, '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Pa'),
    ],
)
def test_arguments_are_passed_on_while_they_come(form: CallFormat, text: str) -> None:
    reader = AnswerReader(THINK, form, TOOLS, new_id=lambda: "0")
    assert reader.push(text) == call(0, "weather", '{"city": "Pa')
    assert reader.push("ri") == [CallArguments(0, "ri")]


@pytest.mark.parametrize(
    ("form", "text", "parts"),
    [case for case in WELL_FORMED if case[2] and case[1].endswith(("</tool_call>", "}", "]"))],
)
def test_without_parallel_calls_the_answer_is_over_with_the_first(
    form: CallFormat, text: str, parts: list[AnswerPart]
) -> None:
    first = [part for part in parts if getattr(part, "index", 0) == 0]
    assert read_pieces([text + "\n more"], form, parallel_calls=False) == first
    assert read_pieces(text + "\n more", form, parallel_calls=False) == first


def test_ids_differ() -> None:
    reader = AnswerReader(None, QWEN, TOOLS)
    text = '<tool_call>{"name": "now", "arguments": {}}</tool_call>' * 2
    ids = [part.id for part in reader.push(text) if isinstance(part, CallBegins)]
    assert len(set(ids)) == len(ids) == reader.calls == 2


def test_a_value_that_is_too_long_to_be_held_back_is_text() -> None:
    digits = "7" * (HELD_CHARACTERS + 100)
    text = f"<tool_call><function=weather><parameter=days>\n{digits}\n</parameter></function></tool_call>"
    begins, arguments = read_pieces([text], CODER)
    assert isinstance(begins, CallBegins)
    assert isinstance(arguments, CallArguments)
    assert json.loads(arguments.text) == {"days": digits}
    assert read_pieces([text[at : at + 999] for at in range(0, len(text), 999)], CODER) == [begins, arguments]
