"""From what a client wrote to the token ids a prompt consists of.

Guarantees: text from a client never becomes a control token unless the client asked for that; in a conversation only
the model's own template writes them. *Rejected*: encoding the rendered conversation as it is, as most servers do: a
quoted "<|im_end|>" in a message then ends the turn and lets its author speak as the system.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numoe.coordinator.api.conversation import Conversation, Tool, ToolCall, Turn, arguments_of
from numoe.coordinator.api.disguise import Disguise
from numoe.coordinator.api.encoding import Checkpoint, Encoder, never_stop
from numoe.model.chat.formats import Formats
from numoe.model.chat.reader import Beginning
from numoe.model.text.chat_template import ChatTemplate
from numoe.model.text.part import Part
from numoe.model.text.tokenizer import Detokenizer, Tokenizer
from numoe.protos.errors import InvalidRequest

DECODED_AT_ONCE = 512  # ids, in half a millisecond of Python, which holds the GIL


def encode_text(encoder: Encoder, text: str, *, special: bool = False, bos: bool = True) -> list[int]:
    """Token ids of a text; with `bos`, led by the beginning-of-text token where the model wants one."""
    token_ids = encoder.encode(text, special=special)
    return _lead(encoder.tokenizer, token_ids) if bos else token_ids


@dataclass(frozen=True, slots=True)
class Rendered:
    """The prompt of a conversation as text, which ends where the assistant is to answer or to go on."""

    parts: Sequence[Part]
    beginning: Beginning  # of the answer


def encode_rendered(encoder: Encoder, rendered: Rendered) -> list[int]:
    """Token ids of a conversation."""
    return _lead(encoder.tokenizer, encoder.encode_parts(rendered.parts))


def render_conversation(
    encoder: Encoder, template: ChatTemplate, formats: Formats, conversation: Conversation
) -> Rendered:
    """The prompt of a valid conversation, by the model's own template.

    Raises InvalidRequest if the template does not take it, or does not show the end of a turn that is to go on.
    """
    disguise = Disguise(encoder)
    turns = [*conversation.turns[:-1], _with_thought_apart(conversation.turns[-1], formats)]
    open_turn = turns[-1] if turns[-1].role == "assistant" else None
    context = disguise.hide_data(_context(conversation, [_message(turn, formats) for turn in turns]))
    if open_turn is not None:
        context["messages"][-1][_open_field(open_turn)] += disguise.end
    text = template.render(add_generation_prompt=open_turn is None, **context)
    if open_turn is not None:
        text, *after = text.split(disguise.end)
        if len(after) != 1:
            problem = "is the assistant's, but the model's chat template does not show it as it is, so it cannot go on"
            raise InvalidRequest(f"messages[{len(turns) - 1}]", f"{problem}; end with another turn")
    return Rendered(disguise.uncover(text), _beginning(text, open_turn, formats))


def decode(
    tokenizer: Tokenizer, token_ids: Sequence[int], checkpoint: Checkpoint = never_stop, *, control: bool = False
) -> str:
    """The text of some tokens; what is no UTF-8 gives U+FFFD, control tokens nothing, with `control` their names."""
    detokenizer = Detokenizer(tokenizer, frozenset(token_ids if control else ()))
    text: list[str] = []
    for start in range(0, len(token_ids), DECODED_AT_ONCE):
        checkpoint()
        text += [detokenizer.push(token_id) for token_id in token_ids[start : start + DECODED_AT_ONCE]]
    return "".join([*text, detokenizer.finish()])


def _lead(tokenizer: Tokenizer, token_ids: list[int]) -> list[int]:
    if not tokenizer.add_bos or tokenizer.bos_id is None or token_ids[:1] == [tokenizer.bos_id]:
        return token_ids
    return [tokenizer.bos_id, *token_ids]


def _with_thought_apart(turn: Turn, formats: Formats) -> Turn:
    """A last turn whose content is a thought that is still open, as templates take it."""
    if turn.role != "assistant" or turn.reasoning or formats.thought is None:
        return turn
    opening, said = formats.thought.opening, turn.content.lstrip()
    if not said.startswith(opening) or formats.thought.closing in said:
        return turn
    return replace(turn, content="", reasoning=said.removeprefix(opening))


def _beginning(text: str, open_turn: Turn | None, formats: Formats) -> Beginning:
    if open_turn is not None and open_turn.content:
        return Beginning.IN_CONTENT
    if open_turn is not None and open_turn.reasoning:
        return Beginning.IN_CONTENT if formats.thought is None else Beginning.IN_THOUGHT
    opened = formats.thought is not None and text.rstrip().endswith(formats.thought.opening)
    return Beginning.AT_THOUGHT if opened else Beginning.ANEW


def _context(conversation: Conversation, messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The template's variables."""
    tools = [_tool(tool) for tool in conversation.shown_tools] or None
    return {**conversation.variables, **conversation.switches, "messages": messages, "tools": tools}


def _message(turn: Turn, formats: Formats) -> dict[str, Any]:
    """A turn as templates know it, without what it does not have: they ask whether that is defined."""
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.reasoning:
        message["reasoning_content"] = turn.reasoning
    if turn.calls:
        message["tool_calls"] = [_call(call, formats) for call in turn.calls]
    if turn.call_id:
        message["tool_call_id"] = turn.call_id
    if turn.name:
        message["name"] = turn.name
    return message


def _call(call: ToolCall, formats: Formats) -> dict[str, Any]:
    arguments = arguments_of(call) if formats.object_arguments else call.arguments
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _open_field(turn: Turn) -> str:
    """What of an assistant's turn goes on."""
    return "reasoning_content" if turn.reasoning and not turn.content else "content"
