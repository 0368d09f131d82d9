"""What may be asked of the model over HTTP, by path: OpenAI's API, Anthropic's, and what llama-server has beside."""

from __future__ import annotations

import time
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from numoe.coordinator.api.anthropic import errors as anthropic_errors
from numoe.coordinator.api.anthropic import messages
from numoe.coordinator.api.http.answers import Answer, Refuse, json_answer
from numoe.coordinator.api.http.inference import Inference, refusing
from numoe.coordinator.api.openai import chat, completions, errors, llama_server, models, slot_actions
from numoe.coordinator.api.served_model import ServedModel
from numoe.coordinator.api.telling import Dialect, sse

COMMENT = b": the prompt is being run\n\n"  # which every reader of server-sent events skips
CHAT = Dialect(chat.read_chat, errors.refusal, COMMENT)
COMPLETIONS = Dialect(completions.read_completion, errors.refusal, COMMENT)
MESSAGES = Dialect(messages.read_messages, anthropic_errors.refusal, sse(b'{"type":"ping"}', "ping"))


_AS_OPENAI, _AS_ANTHROPIC = refusing(CHAT), refusing(MESSAGES)


class Asked:
    """The answers: method, path, what answers there, and how those are told who may not ask."""

    def __init__(self, inference: Inference) -> None:
        self._started = int(time.time())
        self.answers: Sequence[tuple[str, str, Answer, Refuse]] = (
            ("GET", "/v1/models", inference.looking(CHAT, self._models), _AS_OPENAI),
            ("GET", "/v1/models/{name:path}", inference.looking(CHAT, self._model), _AS_OPENAI),
            _generating(inference, "/v1/chat/completions", CHAT),
            _generating(inference, "/v1/completions", COMPLETIONS),
            _generating(inference, "/v1/messages", MESSAGES),
            ("POST", "/v1/messages/count_tokens", inference.making(MESSAGES, messages.count_tokens), _AS_ANTHROPIC),
            ("POST", "/tokenize", inference.making(CHAT, llama_server.tokens_of), _AS_OPENAI),
            ("POST", "/detokenize", inference.making(CHAT, llama_server.text_of), _AS_OPENAI),
            ("POST", "/apply-template", inference.making(CHAT, llama_server.prompt_of), _AS_OPENAI),
            ("GET", "/props", inference.looking(CHAT, _properties), _AS_OPENAI),
        )
        self.slots = inference.looking(CHAT, _slots)
        self.slot_actions = ("POST", "/slots/{slot}", inference.ordering(CHAT, _slot), _AS_OPENAI)

    def _models(self, request: Request, served: ServedModel) -> Response:
        return json_answer(models.model_list(served, self._started))

    def _model(self, request: Request, served: ServedModel) -> Response:
        return json_answer(models.model_of(request.path_params["name"], served, self._started))


def _generating(inference: Inference, path: str, dialect: Dialect) -> tuple[str, str, Answer, Refuse]:
    return "POST", path, inference.generating(path, dialect), refusing(dialect)


def _properties(request: Request, served: ServedModel) -> Response:
    return json_answer(llama_server.properties_of(served))


def _slots(request: Request, served: ServedModel) -> Response:
    """With ?fail_on_no_slot=1 a service whose slots are all taken answers 503."""
    must_have_one = request.query_params.get("fail_on_no_slot", "0") not in ("", "0")
    status = 503 if must_have_one and not llama_server.has_free_slot(served) else 200
    return json_answer(llama_server.slots_of(served), status)


async def _slot(request: Request, body: bytes, served: ServedModel) -> Response:
    action = request.query_params.get("action", "")
    status, told = await slot_actions.act(request.path_params["slot"], action, body, served)
    return json_answer(told, status)
