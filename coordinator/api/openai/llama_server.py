"""What llama-server has beside OpenAI's API: tokens, templates, properties and slots, in its fields.

What of its fields numoe has no counterpart for is left out.
"""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

from numoe.coordinator.api.answering import detokenize, render, tokenize
from numoe.coordinator.api.bodies import read_body
from numoe.coordinator.api.openai.chat import ChatBody, conversation_of
from numoe.coordinator.api.openai.errors import in_body
from numoe.coordinator.api.openai.facts import BUILD
from numoe.coordinator.api.served_model import ServedModel
from numoe.coordinator.engine.state import EngineState, RequestStatus
from numoe.protos.errors import InvalidRequest
from numoe.protos.messages import Sampling


class TokenizeBody(msgspec.Struct, kw_only=True):
    """A text to make tokens of."""

    content: str
    add_special: bool = False  # the token that begins a text, where the model wants one
    parse_special: bool = True  # control tokens that are written in it
    with_pieces: bool = False


class DetokenizeBody(msgspec.Struct, kw_only=True):
    """Tokens to make a text of."""

    tokens: list[int]


async def tokens_of(body: bytes, served: ServedModel) -> object:
    """/tokenize. Raises InvalidRequest."""
    asked = read_body(body, TokenizeBody)
    special, bos = asked.parse_special, asked.add_special
    try:
        ids = await tokenize(served, asked.content, special=special, bos=bos, deadline=None)
    except InvalidRequest as error:
        raise InvalidRequest("content", error.problem) from error
    return {"tokens": [_piece(token_id, served) for token_id in ids] if asked.with_pieces else ids}


async def text_of(body: bytes, served: ServedModel) -> object:
    """/detokenize. Raises InvalidRequest."""
    asked = read_body(body, DetokenizeBody)
    try:
        return {"content": await detokenize(served, asked.tokens, deadline=None, control=True)}
    except InvalidRequest as error:
        raise InvalidRequest(error.field.replace("ids", "tokens"), error.problem) from error


async def prompt_of(body: bytes, served: ServedModel) -> object:
    """/apply-template: the prompt that /v1/chat/completions would make of the same body. Raises InvalidRequest."""
    conversation = conversation_of(read_body(body, ChatBody))
    try:
        return {"prompt": await render(served, conversation, None)}
    except InvalidRequest as error:
        raise in_body(error, "messages") from error


def properties_of(served: ServedModel) -> dict[str, Any]:
    """/props."""
    slots = served.workers.limits.sequences
    return {
        "default_generation_settings": _slot(0, served) | {"prompt": ""},
        "total_slots": slots,
        "model_alias": served.spec.name,
        "chat_template": "" if served.template is None else served.template.source,
        "modalities": {"vision": False, "audio": False},
        "build_info": BUILD,
        "is_sleeping": False,
    }


def slots_of(served: ServedModel) -> list[dict[str, Any]]:
    """/slots: as many as requests may be at work, with those that are."""
    working = {one.slot: one for one in reversed(served.engine.requests())}  # of several in one slot the first
    return [_slot(number, served, working.get(number)) for number in range(served.workers.limits.sequences)]


def has_free_slot(served: ServedModel) -> bool:
    """Whether a request that came now would be at work at once."""
    return sum(one.slot is not None for one in served.engine.requests()) < served.workers.limits.sequences


def health_of(state: EngineState | None) -> tuple[int, dict[str, Any]]:
    """/health: a status of HTTP and what is told with it; None: the model is being loaded."""
    if state is EngineState.SERVING:
        return 200, {"status": "ok"}
    told = "Loading model" if state is None else f"The service is {state}"
    return 503, {"error": {"code": 503, "message": told, "type": "unavailable_error"}}


def _piece(token_id: int, served: ServedModel) -> dict[str, Any]:
    spelled = served.tokenizer.token_bytes(token_id, control=True)
    try:
        return {"id": token_id, "piece": spelled.decode()}
    except UnicodeDecodeError:
        return {"id": token_id, "piece": list(spelled)}


def _slot(number: int, served: ServedModel, status: RequestStatus | None = None) -> dict[str, Any]:
    drawn, left = (status.drawn, status.most_drawn - status.drawn) if status else (0, -1)
    return {
        "id": number,
        "id_task": zlib.crc32(status.request_id.encode()) if status else -1,
        "n_ctx": served.limits.context_tokens,
        "speculative": False,
        "is_processing": status is not None,
        "params": _params(served.suggested_sampling, status.most_drawn if status else -1),
        "next_token": {"has_next_token": status is not None, "n_remain": left, "n_decoded": drawn},
    }


def _params(sampling: Sampling, most_tokens: int) -> dict[str, Any]:
    """What a request gets that says nothing else; of one at work its sampling is not told."""
    return {
        "n_predict": most_tokens,
        "max_tokens": most_tokens,
        "seed": -1,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    }
