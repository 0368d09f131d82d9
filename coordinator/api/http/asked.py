"""What may be asked of the model over HTTP, by path: OpenAI's API, Anthropic's, and what llama-server has beside."""

from __future__ import annotations

import time
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from numoe.coordinator.api.anthropic import errors as anthropic_errors
from numoe.coordinator.api.anthropic import messages
from numoe.coordinator.api.failures import Failure, FailureKind
from numoe.coordinator.api.http.answers import Answer, Refuse, call_id, failed, json_answer
from numoe.coordinator.api.http.inference import Inference, refused, refusing
from numoe.coordinator.api.openai import chat, completions, errors, llama_server, models, slot_actions
from numoe.coordinator.api.served_model import ServedModel
from numoe.coordinator.api.telling import Dialect, sse

COMMENT = b": the prompt is being run\n\n"  # which every reader of server-sent events skips
CHAT = Dialect(chat.read_chat, errors.refusal, COMMENT)
COMPLETIONS = Dialect(completions.read_completion, errors.refusal, COMMENT)
MESSAGES = Dialect(
    messages.read_messages, anthropic_errors.refusal, sse(b'{"type":"ping"}', "ping"), anthropic_errors.ID_HEADERS
)
OPERATORS = frozenset({"", "livez", "readyz", "metrics", "ops"})  # first parts of the paths at which no API is spoken


class Asked:
    """The answers: method, path, and what answers there."""

    def __init__(self, inference: Inference) -> None:
        self._started = int(time.time())
        self.answers: Sequence[tuple[str, str, Answer]] = (
            ("GET", "/v1/models", inference.looking(CHAT, self._models)),
            ("GET", "/v1/models/", inference.looking(CHAT, self._models)),
            ("GET", "/v1/models/{name:path}", inference.looking(CHAT, self._model)),
            _generating(inference, "/v1/chat/completions", CHAT),
            _generating(inference, "/v1/completions", COMPLETIONS),
            _generating(inference, "/v1/messages", MESSAGES),
            ("POST", "/v1/messages/count_tokens", inference.making(MESSAGES, messages.count_tokens)),
            ("POST", "/tokenize", inference.making(CHAT, llama_server.tokens_of)),
            ("POST", "/detokenize", inference.making(CHAT, llama_server.text_of)),
            ("POST", "/apply-template", inference.making(CHAT, llama_server.prompt_of)),
            ("GET", "/props", inference.looking(CHAT, _properties)),
        )
        self.slots = inference.looking(CHAT, _slots)
        self.slot_actions = ("POST", "/slots/{slot}", inference.ordering(CHAT, _slot))

    def _models(self, request: Request, served: ServedModel) -> Response:
        return json_answer(models.model_list(served, self._started))

    def _model(self, request: Request, served: ServedModel) -> Response:
        return json_answer(models.model_of(request.path_params["name"], served, self._started))


def refuse_at(path: str) -> Refuse:
    """How failures are told at a path."""
    dialect = _dialect_at(path)
    return failed if dialect is None else refusing(dialect)


def told_at(request: Request, refusal: Response, reason: str, message: str) -> Response:
    """A refusal in the words of the API that is spoken at its path; where none is, as it is given."""
    dialect = _dialect_at(request.scope["path"])
    if dialect is None:
        return refusal
    failure = Failure(FailureKind.INVALID, reason, message, request_id=call_id(request))
    return refused(dialect, failure, refusal.status_code)


def _dialect_at(path: str) -> Dialect | None:
    """The API whose clients ask at a path, also where no route is; None: it is the operators'."""
    match path.split("/")[1:]:
        case ["v1", "messages", *_]:
            return MESSAGES
        case [first, *_] if first not in OPERATORS:
            return CHAT
    return None


def _generating(inference: Inference, path: str, dialect: Dialect) -> tuple[str, str, Answer]:
    return "POST", path, inference.generating(path, dialect)


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
