"""The formats of a model's answers are found by its chat template."""

from __future__ import annotations

import pytest

from numoe.model.chat.formats import CALLS, PLAIN, Formats, find_formats
from numoe.model.chat.stages import Markers
from tests.model.text.chat_templates import DEEPSEEK_LIKE, LLAMA3_LIKE, QWEN3_LIKE, started
from tests.tiny_vocabulary import CHAT_TEMPLATE

FORMATS = dict(CALLS)
THINK = Markers("<think>", "</think>")
CODER_LIKE = CHAT_TEMPLATE + "{% if tools %}<tool_call>\n<function=name>\n<parameter=name>\nvalue{% endif %}"
SOURCES = [
    (QWEN3_LIKE, Formats(THINK, FORMATS["<tool_call>"], object_arguments=True, parallel_calls=True)),
    (LLAMA3_LIKE, Formats(None, FORMATS["ipython"], object_arguments=True, parallel_calls=False)),
    (DEEPSEEK_LIKE, Formats(THINK, None, object_arguments=False, parallel_calls=True)),
    (CODER_LIKE, Formats(None, FORMATS["<parameter="])),
    (CHAT_TEMPLATE, PLAIN),
]


@pytest.mark.parametrize(("source", "formats"), SOURCES, ids=["qwen3", "llama3", "deepseek", "coder", "plain"])
def test_a_template_tells_the_formats(source: str, formats: Formats) -> None:
    with started(source) as template:
        assert find_formats(template) == formats


def test_a_model_without_a_template_has_none() -> None:
    assert find_formats(None) == PLAIN
