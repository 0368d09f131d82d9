"""From a ModelInferRequest to a question, and from a field at fault to its place in the message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from numoe.coordinator.api.answering import Question, Text
from numoe.coordinator.api.oip.models import check_served
from numoe.coordinator.api.oip.tensors import STOP, TEXT_INPUT, TEXT_OUTPUT, read_inputs
from numoe.coordinator.api.served_model import ServedModel
from numoe.coordinator.requests.request import GenerationRequest, check_stop_counts
from numoe.coordinator.requests.request_end import Asker
from numoe.oip.open_inference_pb2 import InferParameter, ModelInferRequest
from numoe.protos.errors import InvalidRequest
from numoe.protos.messages import Sampling

SPECIAL, STREAM = "parse_special", "stream"
EMPTY_FINAL = "triton_enable_empty_final_response"  # that Triton's client sets
_SAMPLING = {field.name: type(field.default) for field in fields(Sampling)}
_STOPPING: dict[str, type] = {"max_tokens": int, "min_tokens": int, "ignore_eos": bool, "include_stop": bool}
PARAMETERS: Mapping[str, type] = MappingProxyType(
    {**_SAMPLING, **_STOPPING, STOP: str, SPECIAL: bool, STREAM: bool, EMPTY_FINAL: bool}
)
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True, slots=True)
class Form:
    """How an answer is told."""

    model: str
    request_id: str
    shape: Sequence[int]  # of the text, as that of the prompt
    raw: bool  # whether tensors are raw, as the request's are
    parts: bool  # whether it is told part by part
    empty_final: bool  # whether what tells the end of a stream's answer has no text


def read_question(
    message: ModelInferRequest, served: ServedModel, asker: Asker, deadline: float | None, *, streams: bool
) -> Question:
    """What the message asks; what it leaves out is as in numoe.v1.

    Args:
        message: of a client.
        served: whose name the message must have.
        asker: who asks.
        deadline: when the client gives up, in time.monotonic(); None: never.
        streams: whether there may be several messages to answer it.

    Raises:
        ModelNotFound: it asks another model.
        InvalidRequest: a tensor or a parameter is at fault.
    """
    check_served(message.model_name, message.model_version, served)
    for index, output in enumerate(message.outputs):
        if output.name != TEXT_OUTPUT:
            raise InvalidRequest(f"outputs[{index}].name", f"is {output.name!r:.80}; expected {TEXT_OUTPUT}")
    given = {name: _value(name, parameter) for name, parameter in message.parameters.items()}
    if given.get(STREAM) and not streams:
        raise InvalidRequest(STREAM, "is true; expected ModelStreamInfer to be called for that")
    texts = read_inputs(message)
    stops = [*([given[STOP]] if STOP in given else []), *texts.get(STOP, ())]
    check_stop_counts(len(stops), 0)
    request = GenerationRequest(
        request_id=asker.request_id,
        prompt=(),
        sampling=Sampling(**{name: value for name, value in given.items() if name in _SAMPLING}),
        stop=tuple(stops),
        deadline=deadline,
        client=asker.client,
        method=asker.method,
        trace=asker.trace,
        key=asker.key,
        **{name: value for name, value in given.items() if name in _STOPPING},
    )
    [prompt] = texts[TEXT_INPUT]
    return Question(Text(prompt, given.get(SPECIAL, False)), request, "seed" in given)


def form_of(message: ModelInferRequest, asker: Asker, *, streams: bool) -> Form:
    """How to tell the answer to a message that was read."""
    given = {name: _value(name, parameter) for name, parameter in message.parameters.items()}
    [prompt] = [tensor for tensor in message.inputs if tensor.name == TEXT_INPUT]
    return Form(
        model=message.model_name,
        request_id=asker.request_id,
        shape=tuple(prompt.shape),
        raw=bool(message.raw_input_contents),
        parts=given.get(STREAM, streams),
        empty_final=given.get(EMPTY_FINAL, False),
    )


def in_message(error: InvalidRequest) -> InvalidRequest:
    """The same fault under the name that it has in the client's message; always another error."""
    root = error.field.partition("[")[0].removeprefix("sampling.")
    field = {"prompt": TEXT_INPUT, "request_id": "id"}.get(root, error.field)
    return error.named(f"parameters.{root}" if root in PARAMETERS else field)


def _value(name: str, parameter: InferParameter) -> Any:
    """Of the type that the parameter of this name has. Raises InvalidRequest."""
    kind = PARAMETERS.get(name)
    if kind is None:
        raise InvalidRequest("parameters", f"have {name!r:.80}; expected some of {', '.join(sorted(PARAMETERS))}")
    field = parameter.WhichOneof("parameter_choice")
    value = None if field is None else getattr(parameter, field)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise InvalidRequest(name, f"is {value!r:.80}; expected {_WORDS[kind]}")
    return value
