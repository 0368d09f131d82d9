"""Which formats a model's answers are in, by the text of its chat template and by what that does with a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from numoe.model.chat.json_calls import JsonCalls
from numoe.model.chat.stages import CallFormat, Markers
from numoe.model.chat.tagged_calls import TaggedCalls
from numoe.model.text.chat_template import ChatTemplate
from numoe.protos.errors import InvalidRequest

# What a template that writes or removes thoughts names, and how they are enclosed.
THOUGHTS: Mapping[str, Markers] = MappingProxyType(
    {
        "</think>": Markers("<think>", "</think>"),  # Qwen3, DeepSeek-R1
        "</seed:think>": Markers("<seed:think>", "</seed:think>"),  # Seed-OSS
        "[/THINK]": Markers("[THINK]", "[/THINK]"),  # Magistral
    }
)
_LLAMA = JsonCalls("<|python_tag|>", bare=True, separator=";", arguments="parameters")
# What a template that tells of tools names, and how they are then called; the first that fits counts.
CALLS: Sequence[tuple[str, CallFormat]] = (
    ("<parameter=", TaggedCalls()),  # Qwen3-Coder
    ("<tool_call>", JsonCalls("<tool_call>", "</tool_call>")),  # Qwen3, Hermes
    ("<|python_tag|>", _LLAMA),  # Llama 3.1 and 3.3
    ("ipython", _LLAMA),  # Llama 3.2
    ("[TOOL_CALLS]", JsonCalls("[TOOL_CALLS]", listed=True, separator=",")),  # Mixtral, Mistral
    ("<|tool_call|>", JsonCalls("<|tool_call|>", "<|/tool_call|>", listed=True, separator=",")),  # Phi, Granite
)


@dataclass(frozen=True, slots=True)
class Formats:
    """How a model answers."""

    thought: Markers | None = None  # None: it does not think apart
    calls: CallFormat | None = None  # None: it calls no tools, or in a way that is not known
    object_arguments: bool = True  # whether its template takes a call's arguments as data; else as JSON text
    parallel_calls: bool = True  # whether its template takes several calls in a turn


PLAIN = Formats()


def find_formats(template: ChatTemplate | None) -> Formats:
    """The formats of the model that a template belongs to."""
    if template is None:
        return PLAIN
    source = template.source
    return Formats(
        thought=next((markers for named, markers in THOUGHTS.items() if named in source), None),
        calls=next((form for named, form in CALLS if named in source), None),
        object_arguments=_takes_objects(template),
        parallel_calls=_shows(template, [_call("{}")]) is None or _shows(template, [_call("{}")] * 2) is not None,
    )


def _takes_objects(template: ChatTemplate) -> bool:
    """Whether arguments that are given as data come out as JSON; a template that shows no calls takes anything."""
    text = _shows(template, [_call({"needle": "hay"})])
    return text is not None and ('"needle": "hay"' in text or "hay" not in text)


def _shows(template: ChatTemplate, calls: Sequence[Mapping[str, object]]) -> str | None:
    """What the template makes of calls; None: it refuses them."""
    answer = {"role": "assistant", "content": "", "tool_calls": calls}
    try:
        return template.render([{"role": "user", "content": "Hello"}, answer], add_generation_prompt=False)
    except InvalidRequest:
        return None


def _call(arguments: object) -> Mapping[str, object]:
    function = {"name": "f", "arguments": arguments}
    return {"id": "123456789", "type": "function", "function": function}  # an id as Mistral's template wants it
