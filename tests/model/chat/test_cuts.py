"""However the text of an answer is cut, its parts are the same, and nothing that a model wrote is lost."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numoe.model.chat.formats import CALLS
from numoe.model.chat.parts import AnswerPart, CallBegins
from numoe.model.chat.reader import Beginning
from numoe.model.chat.stages import CallFormat
from tests.model.chat.answers import read_pieces

PAYLOAD = set("XYZ")  # letters that no format writes itself
SYNTAX = (
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "<|tool_call|>"),
    *("<|/tool_call|>", "<function=", "</function>", "<parameter=", "</parameter>", "now>", "weather>", "days>"),
    *('{"name": "weather", "arguments": ', '{"name": "now", "parameters": ', '{"arguments": {"a": "X"}, "name": "now"'),
    *('{"city": "X"}', '{"a": [1, "\\"X"]}', '{"a": "Y', "{}", "{", "}", "[", "]", ",", ";", ":", '"', "\\", "<", ">"),
    *(" ", "\n", "\n\n", " " * 200, "X", "Y", "Z", "XYZ", "3", "null"),
)
TEXTS = st.lists(st.sampled_from(SYNTAX), max_size=14).map("".join)
CALL_TEXTS = (
    '<tool_call>\n{"name": "weather", "arguments": {"city": "X"}}\n</tool_call>',
    '<tool_call>{"arguments": {"a": "X"}, "name": "now"}</tool_call>',
    "<tool_call>\n<function=weather>\n<parameter=city>\nX\n</parameter>\n<parameter=days>\nY\n</parameter>\n",
    "</function>\n</tool_call>",
    '<|python_tag|>{"name": "now", "parameters": {"a": "X"}}',
    '<|tool_call|>[{"name": "now", "arguments": {"a": "X"}}]<|/tool_call|>',
    '[TOOL_CALLS][{"name": "now", "arguments": {"a": "X"}}, {"name": "now", "arguments": {"a": "Y"}}]',
)
MIXED = st.lists(TEXTS | st.sampled_from(CALL_TEXTS), max_size=5).map("".join)
ANSWERS = st.tuples(MIXED, st.lists(st.integers(0, 400), max_size=12))


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(place for place in places if place < len(text)), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


def payload(text: str) -> list[str]:
    return sorted(letter for letter in text if letter in PAYLOAD)


def text_of(part: AnswerPart) -> str:
    return part.name if isinstance(part, CallBegins) else part.text


@pytest.mark.parametrize("beginning", Beginning)
@pytest.mark.parametrize("form", [form for _, form in CALLS], ids=[named for named, _ in CALLS])
@settings(derandomize=True, max_examples=150)
@given(answer=ANSWERS)
def test_cuts_change_nothing(form: CallFormat, beginning: Beginning, answer: tuple[str, list[int]]) -> None:
    text, places = answer
    whole = read_pieces([text], form, beginning=beginning)
    assert read_pieces(cut(text, places), form, beginning=beginning) == whole
    assert read_pieces(text, form, beginning=beginning) == whole


@pytest.mark.parametrize("form", [form for _, form in CALLS], ids=[named for named, _ in CALLS])
@settings(derandomize=True, max_examples=300)
@given(text=MIXED)
def test_what_is_written_comes_out(form: CallFormat, text: str) -> None:
    parts = read_pieces([text], form)
    assert payload("".join(map(text_of, parts))) == payload(text)
