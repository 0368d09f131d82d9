"""What an answer must be, and how its thought is told, follow from the conversation and the model's formats."""

from __future__ import annotations

import json
from typing import Any

import pytest

from numoe.coordinator.api.conversation import Conversation, Tool, ToolChoice, Turn
from numoe.coordinator.api.reading import constraint_of, thought_tokens
from numoe.coordinator.requests.constraint import Constraint, Grammar, any_json_object
from numoe.model.chat.formats import Formats
from numoe.model.chat.json_calls import JsonCalls
from numoe.model.chat.reader import Beginning
from numoe.model.chat.stages import Markers
from numoe.model.chat.tagged_calls import TaggedCalls
from numoe.protos.errors import InvalidRequest
from tests.coordinator.tiny_tokenizer import TOKENIZER

HERMES = JsonCalls("<tool_call>", "</tool_call>")
LLAMA = JsonCalls("<|python_tag|>", bare=True, separator=";", arguments="parameters")
CONTROLLED = JsonCalls("<|im_start|>", listed=True, separator=",")  # an opening that is a control token
REGEX = Constraint(Grammar.REGEX, "a+")
THOUGHT = Markers("<think>", "</think>")
(OPEN,), (CLOSE,), (CONTROL,) = (TOKENIZER.special_ids([one]) for one in ("<think>", "</think>", "<|im_start|>"))


def conversation(**fields: Any) -> Conversation:
    given: dict[str, Any] = {"turns": [Turn("user", "x")], "tools": [Tool("f"), Tool("g")]}
    return Conversation(**(given | fields))


def constraint(form: Any, asked: Constraint | None = None, **fields: Any) -> Constraint | None:
    return constraint_of(conversation(**fields), Formats(calls=form), TOKENIZER, asked)


@pytest.mark.parametrize("choice", [ToolChoice.REQUIRED, "f"])
def test_a_call_that_nobody_knows_how_to_write_cannot_be_required(choice: ToolChoice | str) -> None:
    with pytest.raises(InvalidRequest, match="tool_choice: requires a call, but this model's template has none"):
        constraint(None, choice=choice)
    assert constraint(None, choice=ToolChoice.AUTO) is None


@pytest.mark.parametrize("form", [HERMES, LLAMA, CONTROLLED])
def test_calls_that_must_come_are_a_grammar_of_those_that_may(form: JsonCalls) -> None:
    for choice, names in ((ToolChoice.REQUIRED, ("f", "g")), ("g", ("g",))):
        made = constraint(form, REGEX, choice=choice)
        assert made is not None
        begins = [f'{{"name": "{name}", "{form.arguments}": ' for name in "fg"]
        assert [json.dumps(begin) in made.text for begin in begins] == [name in names for name in "fg"]
        assert made.control == ({CONTROL} if form is CONTROLLED else frozenset())
        assert ("<tool_call>" in made.text) is (form is HERMES)
    several, one = (constraint(form, choice=ToolChoice.REQUIRED, parallel_calls=many) for many in (True, False))
    assert several != one


def test_calls_that_may_come_stand_beside_a_schema_and_leave_other_forms_alone() -> None:
    either = constraint(HERMES, any_json_object())
    assert either is not None
    assert "start: calls | otherwise" in either.text
    for form, asked, fields in (
        (HERMES, REGEX, {}),
        (HERMES, None, {}),
        (HERMES, any_json_object(), {"choice": ToolChoice.NONE}),
        (HERMES, any_json_object(), {"tools": ()}),
        (TaggedCalls(), any_json_object(), {"choice": ToolChoice.REQUIRED}),
    ):
        assert constraint(form, asked, **fields) is asked


@pytest.mark.parametrize(
    ("beginning", "fields", "guided", "opened"),
    [
        (Beginning.ANEW, {}, True, False),
        (Beginning.ANEW, {}, False, None),
        (Beginning.ANEW, {"thinking": False}, True, None),
        (Beginning.ANEW, {"variables": {"enable_thinking": False}}, True, None),
        (Beginning.ANEW, {"thinking": False, "variables": {"enable_thinking": True, "thinking": True}}, True, False),
        (Beginning.AT_THOUGHT, {"thinking": False}, True, True),  # by a template that has no switch
        (Beginning.IN_THOUGHT, {}, True, True),
        (Beginning.IN_CONTENT, {}, True, None),
        (Beginning.AT_THOUGHT, {"thinking_budget": 3}, False, True),
    ],
)
def test_a_thought_is_followed_where_a_form_or_a_limit_depends_on_it(
    beginning: Beginning, fields: dict[str, Any], guided: bool, opened: bool | None
) -> None:
    asked = conversation(**fields)
    found = thought_tokens(asked, Formats(thought=THOUGHT), TOKENIZER, beginning, guided=guided)
    if opened is None:
        assert found is None
    else:
        assert found is not None
        assert (found.opening, found.closing, found.opened) == (OPEN, CLOSE, opened)
        assert found.most == asked.thinking_budget
    assert guided is False or thought_tokens(asked, Formats(), TOKENIZER, Beginning.ANEW, guided=True) is None


def test_a_form_behind_thoughts_that_no_token_ends_is_refused() -> None:
    formats = Formats(thought=Markers("<seed:think>", "</seed:think>"))
    with pytest.raises(InvalidRequest, match="turn thoughts off"):
        thought_tokens(conversation(), formats, TOKENIZER, Beginning.AT_THOUGHT, guided=True)
    assert thought_tokens(conversation(), formats, TOKENIZER, Beginning.ANEW, guided=True) is None
