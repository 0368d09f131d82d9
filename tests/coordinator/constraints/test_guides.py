"""Guides allow exactly the tokens that a grammar allows, whatever it is, and hold nobody up."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time

import numpy as np
import pytest

from numoe.coordinator.constraints.guides import Guides
from numoe.coordinator.requests.constraint import (
    CallLayout,
    Constraint,
    Grammar,
    Guide,
    any_json_object,
    one_of,
    schema_of,
    tool_calls,
)
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.errors import InvalidRequest
from tests.coordinator.tiny_tokenizer import TOKENIZER

GUIDES = Guides(TOKENIZER)
TOOLS: dict[str, dict[str, object]] = {
    "get_weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "draw": {
        "type": "object",
        "properties": {"points": {"$ref": "#/$defs/points"}},
        "required": ["points"],
        "$defs": {"points": {"type": "array", "items": {"type": "number"}}},
    },
}
HERMES = CallLayout(("<tool_call>\n",), ("\n</tool_call>\n<tool_call>\n",), ("\n</tool_call>",))
LISTED = CallLayout(("CALLS", "["), (", ",), ("]",), "parameters")
ANSWER = schema_of('{"enum": ["none"]}', strict=True)
ONE_CALL = '<tool_call>\n{"name": "draw", "arguments": {"points": [1, 2.5]}}\n</tool_call>'
LIST = '{"name": "draw", "parameters": {"points": []}}'
OTHER_CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln", "days": 3}}\n</tool_call>'


def regex(text: str) -> Constraint:
    return Constraint(Grammar.REGEX, text)


def lark(text: str) -> Constraint:
    return Constraint(Grammar.LARK, text)


def schema(**fields: object) -> Constraint:
    return Constraint(Grammar.JSON_SCHEMA, json.dumps(fields))


def allowed_ids(guide: Guide) -> list[int]:
    return np.flatnonzero(np.unpackbits(guide.allowed().view(np.uint8), bitorder="little")).tolist()


async def accepts(constraint: Constraint, text: str) -> bool:
    """Whether a text is allowed token by token, and may end where it ends."""
    guide = await GUIDES.compile(constraint)
    for token_id in TOKENIZER.encode(text, special=False):
        if token_id not in allowed_ids(guide):
            return False
        guide.take(token_id)
    return guide.complete or TOKENIZER.end_ids <= set(allowed_ids(guide))


async def drawn(constraint: Constraint, seed: int, most: int = 400) -> str | None:
    """What random draws of what is allowed make, mostly of one byte each; None: it did not come to an end."""
    guide, random, spelled = await GUIDES.compile(constraint), np.random.default_rng(seed), b""
    for _ in range(most):
        ids = allowed_ids(guide)
        token_id = int(random.choice(ids))
        if token_id in TOKENIZER.end_ids:
            break
        spelled += TOKENIZER.token_bytes(token_id)
        guide.take(token_id)
        assert not guide.problem
        if guide.complete:
            break
    else:
        return None
    return spelled.decode()


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        (any_json_object(), ["{}", '{"a": [1, {"b": null}]}', '{\n  "a": 1\n}'], ["[]", "{", '{"a": 01}', "{}x"]),
        (one_of(["yes", 'a "b"\n', "yesterday", "ä"]), ["yes", 'a "b"\n', "yesterday", "ä"], ["no", "yester", "a"]),
        (schema_of("true", strict=False), ["1", "[{}]"], ["x", "]"]),
        (schema_of('{"x-guidance": 5}', strict=True), ["1", "[{}]"], ["x", "]"]),
        (regex(r"\d{3}-[a-c]+"), ["123-abc"], ["12-a", "123-", "123-d", "x123-a"]),
        (lark('start: "a" start "b" | "-"\n'), ["-", "aa-bb"], ["a-", "aa-b", ""]),
        (schema(type="array", items={"enum": [1, "x"]}, maxItems=2), ["[]", '[1, "x"]'], ["[1, 1, 1]", "[2]"]),
        (tool_calls(TOOLS, HERMES, several=True), [ONE_CALL, OTHER_CALL, f"{ONE_CALL}\n{OTHER_CALL}"], ["", "Sure!"]),
        (
            tool_calls(TOOLS, HERMES, several=False),
            [ONE_CALL],
            [f"{ONE_CALL}\n{OTHER_CALL}", ONE_CALL.replace("draw", "x")],
        ),
        (tool_calls(TOOLS, LISTED, several=True), [f"CALLS[{LIST}]", f"CALLS[{LIST}, {LIST}]"], ["CALLS[]", LIST]),
        (
            tool_calls(TOOLS, HERMES, several=True, otherwise=ANSWER),
            [ONE_CALL, '"none"'],
            ["none", f'"none"{ONE_CALL}'],
        ),
    ],
    ids=["object", "choice", "true", "hints", "regex", "lark", "schema", "calls", "call", "listed", "otherwise"],
)
async def test_a_grammar_allows_its_texts_and_no_others(
    constraint: Constraint, good: list[str], bad: list[str]
) -> None:
    assert [text for text in good if not await accepts(constraint, text)] == []
    assert [text for text in bad if await accepts(constraint, text)] == []


async def test_whatever_is_drawn_is_what_the_grammar_describes() -> None:
    ends = 0
    for seed in range(12):
        number = await drawn(regex(r"-?[0-9]{1,5}(\.[0-9]{2})?"), seed)
        assert number is not None
        assert re.fullmatch(r"-?[0-9]{1,5}(\.[0-9]{2})?", number)
        made = await drawn(schema(type="object", properties={"n": {"type": "integer"}}, required=["n"],
                                  additionalProperties=False), seed)  # fmt: skip
        if made is not None:
            ends += 1
            assert isinstance(json.loads(made)["n"], int)
    assert ends > 6


async def test_an_end_token_is_allowed_only_where_the_text_is_complete_and_control_tokens_never() -> None:
    guide = await GUIDES.compile(regex("ab?"))
    [a], [b] = TOKENIZER.encode("a"), TOKENIZER.encode("b")
    assert allowed_ids(guide) == [a]
    guide.take(a)
    assert set(allowed_ids(guide)) == {b, *TOKENIZER.end_ids}
    assert not guide.complete
    guide.take(b)
    assert guide.complete
    silent = {token_id for token_id in range(TOKENIZER.vocabulary) if not TOKENIZER.token_bytes(token_id)}
    free = await GUIDES.compile(regex("(.|\n)*"))
    assert set(allowed_ids(free)) & silent == TOKENIZER.end_ids


async def test_a_grammar_gets_no_control_tokens_but_those_that_are_named_beside_it() -> None:
    [start] = TOKENIZER.special_ids(["<|im_start|>"])
    text = f'start: "a" <[{start}]> "b"'
    [a], [b] = TOKENIZER.encode("a"), TOKENIZER.encode("b")
    for control, expected in ((frozenset[int](), []), (frozenset({start}), [start])):
        guide = await GUIDES.compile(Constraint(Grammar.LARK, text, control))
        guide.take(a)
        assert allowed_ids(guide) == expected
    guide.take(start)
    assert allowed_ids(guide) == [b]
    with pytest.raises(InvalidRequest) as caught:
        await GUIDES.compile(lark("start: <|im_start|>"))
    assert "backtrace" not in str(caught.value)


async def test_what_no_grammar_can_hold_is_refused_or_left_out_as_is_asked() -> None:
    text = json.dumps({"type": "object", "properties": {"a": {"type": "integer", "not": {"const": 1}}}})
    with pytest.raises(InvalidRequest, match="not"):
        await GUIDES.compile(schema_of(text, strict=True))
    assert await accepts(schema_of(text, strict=False), '{"a": 1}')
    assert not await accepts(schema_of(text, strict=False), '{"a": "1"}')


async def test_a_copy_follows_another_answer() -> None:
    guide = await GUIDES.compile(regex("ab|cd"))
    other = guide.copy()
    [a], [b], [c], [d] = (TOKENIZER.encode(text) for text in "abcd")
    guide.take(a)
    other.take(c)
    assert (allowed_ids(guide), allowed_ids(other), allowed_ids(guide.copy())) == ([b], [d], [b])


async def test_a_model_without_an_end_obeys_no_grammar() -> None:
    endless = Tokenizer.from_metadata(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": ["a", "b"],
            "tokenizer.ggml.token_type": np.array([1, 1], np.int32),
            "tokenizer.ggml.merges": [],
        }
    )
    with pytest.raises(InvalidRequest, match="no end-of-text token"):
        await Guides(endless).compile(any_json_object())


async def test_a_mask_is_made_once_whoever_asks() -> None:
    guide = await GUIDES.compile(any_json_object())
    first = guide.allowed()
    assert guide.allowed() is first
    guide.take(allowed_ids(guide)[0])
    assert guide.allowed() is not first


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        (lark("start: missing"), "unknown name"),
        (regex("(a"), "regex parse error"),
        (schema(type="nonsense"), "Invalid type"),
        (schema_of('{"const": "\\ud800"}', strict=True), "hex escape"),
        (schema_of('{"const": NaN}', strict=True), "expected value"),
    ],
    ids=["lark", "regex", "schema", "surrogate", "no number"],
)
async def test_what_is_no_grammar_is_refused(constraint: Constraint, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        await GUIDES.compile(constraint)
    assert caught.value.field == f"guided.{constraint.grammar}"


async def test_a_grammar_that_comes_to_a_limit_says_so_and_allows_nothing_more() -> None:
    guide = await GUIDES.compile(lark('start: s\ns: s s | s s s | "a" | \n'))
    [a] = TOKENIZER.encode("a")
    while a in allowed_ids(guide):
        guide.take(a)
    assert "max is 400" in guide.problem
    assert not guide.complete


BOMBS = {
    "repeated": regex("(([a-z]{1,1000}){1,1000}){1,1000}"),
    "ambiguous": lark('start: s\ns: s s | s s s | "a" | \n'),
    "optional": schema(type="object", properties={f"a{n:04}": {"type": "string"} for n in range(1500)}),
    "long": schema(type="array", minItems=100_000, items={"type": "string", "minLength": 100_000}),
    "alternatives": regex("|".join(f"(.*{chr(97 + n % 26)}.{{500}})" for n in range(3000))),
    "deep": lark("start:r0\n" + "".join(f"r{n}:r{n + 1}\n" for n in range(5000)) + 'r5000:"x"\n'),
    "enumerated": schema(enum=[f"{n:06}" for n in range(6000)]),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
async def test_a_bomb_is_bounded_and_leaves_others_their_turn(bomb: Constraint) -> None:
    """No single call takes a second, nor does any keep other threads from running for a tenth of one."""
    gaps, over = [], threading.Event()

    def watch() -> None:
        last = time.monotonic()
        while not over.wait(0.001):
            gaps.append(time.monotonic() - last)
            last = time.monotonic()

    watcher = threading.Thread(target=watch)
    watcher.start()
    calls = []
    try:
        begun = time.thread_time()
        guide = await GUIDES.compile(bomb)
        for _ in range(60):
            ids = allowed_ids(guide)
            calls.append(time.thread_time() - begun)
            if not ids or guide.complete:
                break
            begun = time.thread_time()
            guide.take(ids[0])
    except InvalidRequest:
        pass
    finally:
        over.set()
        watcher.join()
    assert max(calls, default=0.0) < 1.0
    assert np.median(gaps) < 0.1


async def test_grammars_of_several_clients_are_compiled_beside_each_other() -> None:
    guides = await asyncio.gather(*(GUIDES.compile(regex(f"[a-c]{{{n}}}")) for n in range(1, 30)))
    [a] = TOKENIZER.encode("a")
    for number, guide in enumerate(guides, 1):
        for _ in range(number):
            assert a in allowed_ids(guide)
            guide.take(a)
        assert guide.complete
