"""The form that an answer must have, by whichever field a client knows for it: OpenAI's, vLLM's or llama-server's."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from numoe.coordinator.api.bodies import schema_text
from numoe.coordinator.requests.constraint import Constraint, Grammar, any_json_object, one_of, schema_of
from numoe.protos.errors import InvalidRequest

_GBNF = "::="  # stands in every rule of it, and in none of Lark's


class NamedSchema(msgspec.Struct, kw_only=True):
    """A schema, as OpenAI wraps it."""

    schema: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None  # whether every word of it must be obeyed


class ResponseFormat(msgspec.Struct, kw_only=True):
    """OpenAI's field."""

    type: str
    json_schema: NamedSchema | None = None
    schema: msgspec.Raw = msgspec.Raw()  # as llama-server takes it


class StructuredOutputs(msgspec.Struct, kw_only=True):
    """vLLM's field."""

    json: msgspec.Raw = msgspec.Raw()
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class Form(msgspec.Struct, kw_only=True):
    """All such fields; inherited, as msgspec reads an object into one class."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: msgspec.Raw = msgspec.Raw()  # vLLM's older ones
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    json_schema: msgspec.Raw = msgspec.Raw()  # llama-server's
    grammar: str | None = None


def constraint_of(form: Form) -> tuple[str, Constraint | None]:
    """The field that says which form the answer has, and what that is; "" and None: any. Raises InvalidRequest."""
    found = dict(_constraints(form))
    if len(found) > 1:
        first, second, *_ = found
        raise InvalidRequest(second, f"says what the answer must be, as {first} does; expected one of them")
    return next(iter(found.items()), ("", None))


def _constraints(form: Form) -> Iterator[tuple[str, Constraint]]:
    if form.response_format is not None and form.response_format.type != "text":
        yield "response_format", _of_format(form.response_format)
    outputs = form.structured_outputs or StructuredOutputs()
    if outputs.json_object:
        yield "structured_outputs.json_object", any_json_object()
    for field, schema in (
        ("structured_outputs.json", outputs.json),
        ("guided_json", form.guided_json),
        ("json_schema", form.json_schema),
    ):
        if text := schema_text(schema):
            yield field, schema_of(text, strict=False)
    for field, regex in (("structured_outputs.regex", outputs.regex), ("guided_regex", form.guided_regex)):
        if regex is not None:
            yield field, Constraint(Grammar.REGEX, regex)
    for field, choices in (("structured_outputs.choice", outputs.choice), ("guided_choice", form.guided_choice)):
        if choices is not None:
            yield field, _of_choices(field, choices)
    for field, grammar in (
        ("structured_outputs.grammar", outputs.grammar),
        ("guided_grammar", form.guided_grammar),
        ("grammar", form.grammar),
    ):
        if grammar:
            yield field, _of_grammar(field, grammar)


def _of_format(wanted: ResponseFormat) -> Constraint:
    named = wanted.json_schema or NamedSchema()
    schema = schema_text(named.schema) or schema_text(wanted.schema)
    match wanted.type:
        case "json_object" | "json_schema" if schema:
            return schema_of(schema, strict=bool(named.strict))
        case "json_object":
            return any_json_object()
        case "json_schema":
            raise InvalidRequest("response_format.json_schema.schema", "is missing; expected a JSON schema")
    expected = "expected 'text', 'json_object' or 'json_schema'"
    raise InvalidRequest("response_format.type", f"is {wanted.type!r:.40}; {expected}")


def _of_choices(field: str, choices: list[str]) -> Constraint:
    try:
        return one_of(choices)
    except InvalidRequest as error:
        raise InvalidRequest(field, error.problem) from error


def _of_grammar(field: str, grammar: str) -> Constraint:
    if _GBNF in grammar:
        raise InvalidRequest(field, "is GBNF; expected Lark, whose rules are written as name: ..., the first one start")
    return Constraint(Grammar.LARK, grammar.removeprefix("%llguidance {}").lstrip())  # llama-server's sign of Lark
