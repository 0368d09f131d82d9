"""How the answer to a conversation is read, by its model's formats and in tokens of its vocabulary."""

from __future__ import annotations

from numoe.coordinator.api.conversation import Conversation, ToolChoice
from numoe.coordinator.requests.constraint import (
    FIELD,
    CallLayout,
    Constraint,
    Grammar,
    Piece,
    check_constraint,
    tool_calls,
)
from numoe.coordinator.requests.thought import ThoughtTokens
from numoe.model.chat.formats import Formats
from numoe.model.chat.json_calls import JsonCalls
from numoe.model.chat.reader import AnswerReader, Beginning
from numoe.model.text.tokenizer import Tokenizer
from numoe.protos.errors import InvalidRequest


def reader_of(conversation: Conversation, formats: Formats, beginning: Beginning) -> AnswerReader:
    """What reads the answer."""
    tools = {tool.name: tool.parameters for tool in conversation.shown_tools}
    parallel = conversation.parallel_calls and formats.parallel_calls
    return AnswerReader(formats.thought, formats.calls, tools, beginning=beginning, parallel_calls=parallel)


def shown_tokens(conversation: Conversation, formats: Formats, tokenizer: Tokenizer) -> frozenset[int]:
    """Control tokens that are part of the answer's text, since thoughts and calls are told by them."""
    thought = () if formats.thought is None else (formats.thought.opening, formats.thought.closing)
    calls = formats.calls.markers if formats.calls and conversation.shown_tools else ()
    return frozenset(tokenizer.special_ids([*thought, *calls]))


def constraint_of(
    conversation: Conversation, formats: Formats, tokenizer: Tokenizer, asked: Constraint | None
) -> Constraint | None:
    """What the answer must be behind its thought: calls where they are required, else what is asked for; None: all.

    Where tools may be called, an answer that is to be JSON may also call some. Calls that are no JSON are not made to
    come. Raises InvalidRequest, also where a call is required and nobody knows how this model writes one.
    """
    form = formats.calls
    if form is None and conversation.choice not in (ToolChoice.AUTO, ToolChoice.NONE):
        problem = "requires a call, but this model's template has none of the known formats of calls: leave it out"
        raise InvalidRequest("tool_choice", problem)
    if not conversation.shown_tools or not isinstance(form, JsonCalls):
        return asked
    tools, layout = {tool.name: tool.parameters for tool in conversation.tools}, _layout(form, tokenizer)
    several = conversation.parallel_calls and formats.parallel_calls
    match conversation.choice:
        case str() as name:
            return tool_calls({name: tools[name]}, layout, several=False)
        case ToolChoice.REQUIRED:
            return tool_calls(tools, layout, several=several)
    if asked is None or asked.grammar is not Grammar.JSON_SCHEMA:
        return asked
    check_constraint(asked)
    return tool_calls(tools, layout, several=several, otherwise=asked)


def thought_tokens(
    conversation: Conversation, formats: Formats, tokenizer: Tokenizer, beginning: Beginning, *, guided: bool
) -> ThoughtTokens | None:
    """How the thought is told with which the answer begins; None: nobody needs to know.

    It is needed where thoughts are limited, or where a grammar says what may follow (`guided`). Raises InvalidRequest
    if the model's thoughts are not told by tokens.
    """
    budget, markers = conversation.thinking_budget, formats.thought
    opened = beginning in (Beginning.AT_THOUGHT, Beginning.IN_THOUGHT)
    needed = guided and markers is not None and (opened or conversation.may_think)
    if budget is None and not needed:
        return None
    if markers is None:
        raise InvalidRequest("thinking_budget", "is given, but this model does not think apart; leave it out")
    ids = [tokenizer.special_ids([text]) for text in (markers.opening, markers.closing)]
    if not all(ids):
        problem = f"this model's vocabulary has no tokens {markers.opening} and {markers.closing}"
        if budget is not None:
            raise InvalidRequest("thinking_budget", f"is given, but {problem}; leave it out")
        if opened:
            raise InvalidRequest(FIELD, f"is not possible behind thoughts, as {problem}; turn thoughts off")
        return None
    if beginning is Beginning.IN_CONTENT:
        return None
    (opening,), (closing,) = ids
    ending = tuple(tokenizer.encode(f"\n{markers.closing}\n\n"))  # as models write it
    return ThoughtTokens(opening, closing, opened, budget, ending)


def _layout(form: JsonCalls, tokenizer: Tokenizer) -> CallLayout:
    opening, closing = (_piece(marker, tokenizer) for marker in (form.opening, form.closing))
    if form.listed:  # what closes a list says that it ends
        return CallLayout((opening, "["), (f"{form.separator} ",), ("]",), form.arguments)
    if form.bare:
        return CallLayout((), (f"{form.separator} ",), (), form.arguments)
    return CallLayout((opening, "\n"), ("\n", closing, "\n", opening, "\n"), ("\n", closing), form.arguments)


def _piece(marker: str, tokenizer: Tokenizer) -> Piece:
    """A marker as its control token, if it is one, or as text."""
    ids = [token_id for token_id in tokenizer.special_ids([marker]) if not tokenizer.token_bytes(token_id)]
    return ids[0] if ids else marker
