"""Thoughts are told apart from what is said."""

from __future__ import annotations

import pytest

from numoe.model.chat.parts import AnswerPart, Content, Reasoning
from numoe.model.chat.reader import Beginning
from numoe.model.chat.stages import MOST_BLANKS
from tests.model.chat.answers import read_pieces


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>\nwhy\n</think>\n\nso", [Reasoning("why"), Content("so")]),
        ("\n<think>why</think>so", [Reasoning("why"), Content("so")]),
        ("<think>\n\n</think>\n\nso", [Content("so")]),
        ("<think>cut off\n", [Reasoning("cut off\n")]),
        ("<think>a < b, </thin", [Reasoning("a < b, </thin")]),
        ("  so ", [Content("  so ")]),
        ("say <think>x</think>", [Content("say <think>x</think>")]),
        ("<think", [Content("<think")]),
        (" " * (MOST_BLANKS + 1) + "<think>x", [Content(" " * (MOST_BLANKS + 1) + "<think>x")]),
        ("<think>x" + " " * (MOST_BLANKS + 2) + "</think>y", [Reasoning("x  "), Content("y")]),
        ("", []),
    ],
)
def test_a_thought_at_the_beginning_is_reasoning(text: str, parts: list[AnswerPart]) -> None:
    assert read_pieces([text]) == parts
    assert read_pieces(text) == parts


@pytest.mark.parametrize(
    ("beginning", "text", "parts"),
    [
        (Beginning.AT_THOUGHT, "\nwhy</think>so", [Reasoning("why"), Content("so")]),
        (Beginning.IN_THOUGHT, " why</think>so", [Reasoning(" why"), Content("so")]),
        (Beginning.IN_THOUGHT, "why", [Reasoning("why")]),
        (Beginning.IN_CONTENT, " <think>x</think>", [Content(" <think>x</think>")]),
    ],
)
def test_an_answer_may_begin_where_the_prompt_ended(beginning: Beginning, text: str, parts: list[AnswerPart]) -> None:
    assert read_pieces([text], beginning=beginning) == parts
    assert read_pieces(text, beginning=beginning) == parts


def test_a_model_that_does_not_think_may_write_of_it() -> None:
    assert read_pieces("<think>x</think>y", thought=None) == [Content("<think>x</think>y")]
