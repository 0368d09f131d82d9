"""Bodies for every POST route of HTTP, and ways in which they come broken: the same for the same source of chance."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

DEEP = b"[" * 100_000
LARGE_BYTES = (100_000, 1_000_000, 7_000_000)  # the door takes 8 MiB
LARGE_SHARE = 0.01  # of bodies: each holds some MB on both sides
TURNS: Any = [
    {"role": "user", "content": [{"type": "text", "text": "hello"}]},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c", "content": "x"},
]
TOOLS: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
SHARED: Any = {"max_tokens": 2, "temperature": 0.5, "n": 1, "stop": ["x"], "stream": False, "top_p": 0.9, "seed": 1}
FORM: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "properties": {}}}}
CHAT: Any = SHARED | {"messages": TURNS, "tools": TOOLS, "tool_choice": "auto", "response_format": FORM}
MESSAGES: Any = {
    "max_tokens": 2,
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "y"}]},
    ],
    "system": "s",
    "tools": [{"name": "f", "input_schema": {"type": "object"}}],
}
VALID: dict[str, Any] = {
    "/v1/chat/completions": CHAT | {"chat_template_kwargs": {"a": {"b": [1]}}},
    "/v1/completions": SHARED | {"prompt": ["ab", [1, 2]], "logprobs": 0, "logit_bias": {"5": 1.0}},
    "/v1/messages": MESSAGES | {"thinking": {"type": "enabled", "budget_tokens": 5}},
    "/v1/messages/count_tokens": MESSAGES,
    "/tokenize": {"content": "ab", "with_pieces": True},
    "/detokenize": {"tokens": [1, 2]},
    "/apply-template": {"messages": TURNS, "tools": TOOLS},
}
# Of those that act, too: the last one's has more fields than go, as one without any ends the service.
ACTIONS: dict[str, Any] = {
    "/ops/actions/abort": {"request_id": "x"},
    "/ops/actions/rebalance": {},
    "/ops/actions/drain-worker": {"worker": 0},
    "/ops/actions/drain-service": {"a": 1, "b": [2], "c": {"d": 3}, "e": True},
}
JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 2**70, 1e308, -0.0, "", "x" * 9000, "\ud800", "\x00<|im_end|>", "{{ 1 }}",
    [], [[]], [["a"]] * 9, [None] * 99, {}, {"": {}}, {"role": "user"}, {"type": "object", "$ref": "#"},
)  # fmt: skip
SCHEMAS: tuple[Any, ...] = (
    7, "{", {"type": "nothing"}, {"$ref": "#/definitions/none"}, {"$ref": "#"}, {"enum": []}, {"pattern": "("},
    {"allOf": [{"type": "string"}, {"type": "integer"}]}, {"type": "integer", "minimum": 9, "maximum": -(2**70)},
    {"type": "string", "minLength": 2**40}, {"type": "array", "minItems": -1}, {"const": "\ud800"}, {"multipleOf": 0},
    {"properties": {"a": {"$ref": "#/properties/b"}, "b": {"$ref": "#/properties/a"}}}, {"anyOf": [{}] * 300},
    {"enum": [f"{number}" * 9 for number in range(3000)]}, {"type": "object", "minProperties": 10**6},
)  # fmt: skip
REGEXES: tuple[Any, ...] = (
    "(", "*", "[z-a]", "(?<=a)b", "(a*)*b", "(a|a)*c", "a{9999}", "((a{60}){60}){60}", "\\", "(?P<n>x)(?P=n)",
    "\\p{Nope}", "(" * 5000, "[\ud800]", "(?i)" + "ß" * 400, ".{0,3000}x.{0,3000}", "", "(?:x+x+)+y",
)  # fmt: skip
GRAMMARS: tuple[Any, ...] = (
    "start: start", "start: a", "start: (", 'start: "a" start | start "b"', "root ::= 'x'", "", "start: /(/", "%json {",
    'start: x\nx: y\ny: x | "z"', "start: " + "(" * 3000, 'start: ("a"?)~1..9999', "start: <|im_end|>", "\x00",
)  # fmt: skip
TEMPLATE_ARGUMENTS: tuple[Any, ...] = (
    {"messages": 1}, {"tools": [None]}, {"add_generation_prompt": {}}, {"bos_token": []}, {"raise_exception": "x"},
    {"enable_thinking": "x" * 9000}, {"": ""}, {"self": {}, "loop": 1},
    {f"k{number}": number for number in range(2000)}, {"namespace": 7, "range": None}, {"documents": [[[[{}]]]]},
    [1], "x",
)  # fmt: skip
GRAMMAR_FIELDS = ("guided_json", "json_schema", "guided_regex", "guided_grammar", "grammar", "guided_choice", "regex")
# Fields that a route may take, beside those that stand in its valid body.
PLACED: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("guided_json", SCHEMAS),
    ("json_schema", SCHEMAS),
    ("guided_regex", REGEXES),
    ("guided_grammar", GRAMMARS),
    ("grammar", GRAMMARS),
    ("guided_choice", ([], [""], ["a"] * 3000, [1], ["\ud800"], ["x" * 70000])),
    ("structured_outputs", ({}, {"regex": "("}, {"json": 1, "regex": "a"}, {"choice": [[]]}, [])),
    ("response_format", tuple({"type": "json_schema", "json_schema": {"name": "n", "schema": one}} for one in SCHEMAS)),
    ("chat_template_kwargs", TEMPLATE_ARGUMENTS),
    ("tools", tuple([{"type": "function", "function": {"name": "f", "parameters": one}}] for one in SCHEMAS)),
    ("tool_choice", ("required", "nothing", {"type": "function", "function": {"name": "g"}}, {"type": "any"}, 1)),
    ("logit_bias", ({"x": 1}, {"-1": 1}, {str(2**70): 1}, {"5": 1e308}, {str(number): 1 for number in range(3000)})),
    ("stop", (["x"] * 99, ["x" * 70000], [""], "\ud800", [[]])),
)


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in plain data, as a container and a key."""
    keys = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in keys:
        yield data, key
        yield from places(value)


def malformed(valid: Any, chosen: random.Random) -> bytes:
    """A body with values replaced, gone or added, or with its bytes cut, turned over, doubled or nested without end."""
    body = json.loads(json.dumps(valid))
    for _ in range(chosen.randint(1, 3)):
        container, key = chosen.choice(list(places(body)) or [({"": 0}, "")])
        if chosen.random() < 0.2:
            del container[key]
        else:
            container[key] = deepcopy(chosen.choice(JUNK))
    if chosen.random() < 0.3:
        name, values = chosen.choice(PLACED)
        body[name] = deepcopy(chosen.choice(values))
    if chosen.random() < LARGE_SHARE:
        body = json.loads(json.dumps(body))  # in which no place stands for several
        container, key = chosen.choice(list(places(body)) or [(body, "x")])
        container[key] = _large(chosen)
    return _with_broken_bytes(bytearray(json.dumps(body).encode()), chosen)


def _large(chosen: random.Random) -> Any:
    size = chosen.choice(LARGE_BYTES)
    return chosen.choice(("x" * size, "a " * (size // 2), [1] * (size // 3), [{}] * (size // 4), {"k" * size: 0}))


def _with_broken_bytes(data: bytearray, chosen: random.Random) -> bytes:
    match chosen.randrange(12):
        case 0:
            data = data[: chosen.randrange(len(data))]
        case 1:
            data[chosen.randrange(len(data))] = chosen.randrange(256)
        case 2:
            at = chosen.randrange(len(data))
            data[at:at] = DEEP[: chosen.choice((10, 2000, len(DEEP)))]
        case 3:
            at = chosen.randrange(len(data))
            data[at:at] = chosen.choice(
                (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\x00", b"\xef\xbb\xbf")
            )
        case 4:
            at = chosen.randrange(len(data))
            data[at:at] = chosen.choice((b"1e999", b"9" * 5000, b"-" * 9, b"NaN", b"-Infinity", b"0x1", b"1e-99999"))
        case 5:
            data = data + data
    return bytes(data)
