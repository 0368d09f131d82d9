"""From the engine's events to responses: a text, or part of it, and at the end why it ended and what was counted."""

from __future__ import annotations

from numoe.coordinator.api.oip.models import MODEL_VERSION
from numoe.coordinator.api.oip.requests import Form
from numoe.coordinator.api.oip.tensors import add_output
from numoe.coordinator.requests.events import Finished
from numoe.coordinator.requests.request import GenerationRequest
from numoe.oip.open_inference_pb2 import ModelInferResponse, ModelStreamInferResponse

FINAL = "triton_final_response"  # whether a stream tells more of an answer, as Triton says it


def part_response(form: Form, text: str) -> ModelInferResponse:
    """Some of a text, of which more follows."""
    response = _response(form)
    add_output(response, text, form.shape, raw=form.raw)
    response.parameters[FINAL].bool_param = False
    return response


def last_response(form: Form, text: str, finished: Finished, request: GenerationRequest) -> ModelInferResponse:
    """All that was not told yet, and what is known of an answer at its end."""
    response = _response(form)
    if text or not form.empty_final:
        add_output(response, text, form.shape, raw=form.raw)
    told = response.parameters
    told[FINAL].bool_param = True
    told["finish_reason"].string_param = finished.reason
    told["seed"].uint64_param = request.sampling.seed
    told["prompt_tokens"].int64_param = finished.usage.prompt_tokens
    told["completion_tokens"].int64_param = finished.usage.completion_tokens
    return response


def failed_response(request_id: str, message: str) -> ModelStreamInferResponse:
    """Why there is no answer to one of a stream's requests, or no more of it."""
    return ModelStreamInferResponse(error_message=message, infer_response=ModelInferResponse(id=request_id))


def _response(form: Form) -> ModelInferResponse:
    return ModelInferResponse(model_name=form.model, model_version=MODEL_VERSION, id=form.request_id)
