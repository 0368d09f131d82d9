"""Which formats a model's answers are in, by the text of its chat template and by what that does with a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from numoe.model.chat.stages import CallFormat, Markers
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
# What a template that tells of tools names, and how they are then called; the first that fits counts.
CALLS: Sequence[tuple[str, CallFormat]] = ()


@dataclass(frozen=True, slots=True)
class Formats:
    """How a model answers."""

    thought: Markers | None = None  # None: it does not think apart
    calls: CallFormat | None = None  # None: it calls no tools, or in a way that is not known
    object_arguments: bool = True  # whether its template takes a call's arguments as data; else as JSON text

    @property
    def markers(self) -> Sequence[str]:
        """Texts that have to be seen, though they may be control tokens."""
        thought = () if self.thought is None else (self.thought.opening, self.thought.closing)
        return (*thought, *(() if self.calls is None else self.calls.markers))


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
    )


def _takes_objects(template: ChatTemplate) -> bool:
    """Whether arguments that are given as data come out as JSON."""
    function = {"name": "f", "arguments": {"needle": "hay"}}
    call = {"role": "assistant", "content": "", "tool_calls": [{"id": "123456789", "function": function}]}
    try:
        text = template.render([{"role": "user", "content": "Hello"}, call], add_generation_prompt=False)
    except InvalidRequest:
        return False
    return '"needle": "hay"' in text or "hay" not in text  # the latter: it knows no calls
