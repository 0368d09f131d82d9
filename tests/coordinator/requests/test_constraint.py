"""Constraints are plain data: made of what clients say, and refused where they are too much."""

from __future__ import annotations

import pytest

from numoe.coordinator.requests.constraint import (
    GRAMMAR_BYTES,
    GRAMMAR_DEPTH,
    CallLayout,
    Constraint,
    Grammar,
    any_json_object,
    check_constraint,
    one_of,
    tool_calls,
)
from numoe.protos.errors import InvalidRequest


def schema(depth: int) -> Constraint:
    return Constraint(Grammar.JSON_SCHEMA, '{"not":' * depth + "true" + "}" * depth)


def test_what_is_within_the_limits_is_taken() -> None:
    for constraint in (
        any_json_object(),
        one_of(["yes", "no"]),
        schema(GRAMMAR_DEPTH),
        Constraint(Grammar.REGEX, "x" * GRAMMAR_BYTES),
        Constraint(Grammar.REGEX, r"\(" * 100 + '"((((("' * 20),  # neither what is escaped nor what is quoted nests
        Constraint(Grammar.JSON_SCHEMA, "true"),
    ):
        check_constraint(constraint)


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        (schema(GRAMMAR_DEPTH + 1), "nested 65 deep; at most 64"),
        (Constraint(Grammar.LARK, "start: " + "(" * 65 + '"a"' + ")" * 65), "nested 65 deep"),
        (Constraint(Grammar.REGEX, "ä" * GRAMMAR_BYTES), "takes 131072 bytes; expected 1 to 65536"),
        (Constraint(Grammar.REGEX, ""), "takes 0 bytes"),
        (Constraint(Grammar.JSON_SCHEMA, '{"type"'), "is no JSON"),
        (Constraint(Grammar.JSON_SCHEMA, "[1]"), "a JSON list; expected an object"),
    ],
    ids=range(6),
)
def test_what_is_too_much_or_no_schema_is_refused(constraint: Constraint, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        check_constraint(constraint)
    assert caught.value.field == f"guided.{constraint.grammar}"


@pytest.mark.parametrize("choices", [[], ["a", ""]])
def test_a_choice_needs_texts(choices: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="at least one text"):
        one_of(choices)


def test_a_call_needs_a_tool() -> None:
    with pytest.raises(InvalidRequest, match="at least one that may be called"):
        tool_calls({}, CallLayout((), (), ()), several=True)
    one = tool_calls({"f": {"type": "object"}}, CallLayout((7, "[\n"), (), ("]",)), several=False)
    assert 'calls: <[7]> "[\\n" call "]"' in one.text
    assert one.control == {7}
