"""How the answer to a conversation is read, by its model's formats and in tokens of its vocabulary."""

from __future__ import annotations

from numoe.coordinator.api.conversation import Conversation
from numoe.coordinator.requests.thought import ThoughtLimit
from numoe.model.chat.formats import Formats
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


def thought_limit(
    conversation: Conversation, formats: Formats, tokenizer: Tokenizer, beginning: Beginning
) -> ThoughtLimit | None:
    """How long the thought may be with which the answer begins; None: as long as the model likes.

    Raises InvalidRequest if there is to be a limit, and the model's thoughts are not told by tokens.
    """
    budget, markers = conversation.thinking_budget, formats.thought
    if budget is None:
        return None
    if markers is None:
        raise InvalidRequest("thinking_budget", "is given, but this model does not think apart; leave it out")
    ids = [tokenizer.special_ids([text]) for text in (markers.opening, markers.closing)]
    if not all(ids):
        problem = f"this model's vocabulary has no tokens {markers.opening} and {markers.closing}"
        raise InvalidRequest("thinking_budget", f"is given, but {problem}; leave it out")
    if beginning is Beginning.IN_CONTENT:
        return None
    (opening,), (closing,) = ids
    ending = tuple(tokenizer.encode(f"\n{markers.closing}\n\n"))  # as models write it
    return ThoughtLimit(budget, opening, closing, ending, opened=beginning is not Beginning.ANEW)
