"""GRPCInferenceService of the Open Inference Protocol: questions to the engine, as GenerationService's are.

Guarantees: what accepting.py does; a stream's requests are answered one after the other, so that a call has no more
open than one, and what becomes of one does not end the others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from numoe.coordinator.api.answering import Question
from numoe.coordinator.api.askers import REQUEST_ID
from numoe.coordinator.api.failures import ToldError, describe_failure
from numoe.coordinator.api.grpc.accepting import Acceptor, Asked, Cleanup, asker_of, deadline_of
from numoe.coordinator.api.grpc.calls import Context
from numoe.coordinator.api.grpc.operations import OperationsSource
from numoe.coordinator.api.oip.models import check_served, is_served, model_metadata, server_metadata
from numoe.coordinator.api.oip.requests import form_of, in_message, read_question
from numoe.coordinator.api.oip.responses import failed_response, last_response, part_response
from numoe.coordinator.api.served_model import ModelSource, ServedModel
from numoe.coordinator.requests.events import Delta, Failed, Finished
from numoe.coordinator.requests.request_end import Asker
from numoe.oip import open_inference_pb2 as oip
from numoe.oip import open_inference_pb2_grpc
from numoe.protos.errors import Unavailable


class InferenceService(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Texts for texts, as tensors."""

    def __init__(self, source: ModelSource, operations: OperationsSource, acceptor: Acceptor) -> None:
        self._source = source
        self._operations = operations
        self._acceptor = acceptor

    async def ServerLive(  # noqa: N802
        self, request: oip.ServerLiveRequest, context: Context
    ) -> oip.ServerLiveResponse:
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, request: oip.ServerReadyRequest, context: Context
    ) -> oip.ServerReadyResponse:
        return oip.ServerReadyResponse(ready=self._is_ready())

    async def ModelReady(  # noqa: N802
        self, request: oip.ModelReadyRequest, context: Context
    ) -> oip.ModelReadyResponse:
        ready = self._is_ready() and is_served(request.name, request.version, self._source())
        return oip.ModelReadyResponse(ready=ready)

    async def ServerMetadata(  # noqa: N802
        self, request: oip.ServerMetadataRequest, context: Context
    ) -> oip.ServerMetadataResponse:
        return server_metadata()

    async def ModelMetadata(  # noqa: N802
        self, request: oip.ModelMetadataRequest, context: Context
    ) -> oip.ModelMetadataResponse:
        served = self._source()
        check_served(request.name, request.version, served)
        return model_metadata(served)

    async def ModelInfer(  # noqa: N802
        self, request: oip.ModelInferRequest, context: Context
    ) -> oip.ModelInferResponse:
        asker = asker_of(context, "GRPCInferenceService/ModelInfer", request.id)
        context.set_trailing_metadata(((REQUEST_ID, asker.request_id),))
        [whole] = [one async for one in self._answer(request, asker, context, Cleanup(context), streams=False)]
        return whole

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[oip.ModelInferRequest], context: Context
    ) -> AsyncIterator[oip.ModelStreamInferResponse]:
        cleanup = Cleanup(context)
        async for request in requests:
            asker = asker_of(context, "GRPCInferenceService/ModelStreamInfer", request.id)
            try:
                async for part in self._answer(request, asker, context, cleanup, streams=True):
                    yield oip.ModelStreamInferResponse(infer_response=part)
            except Exception as error:
                yield failed_response(asker.request_id, describe_failure(error, asker.request_id).message)
            finally:
                cleanup.run()

    async def _answer(
        self, message: oip.ModelInferRequest, asker: Asker, context: Context, cleanup: Cleanup, *, streams: bool
    ) -> AsyncIterator[oip.ModelInferResponse]:
        """The parts of an answer, or all of it in one."""

        def read(served: ServedModel) -> Question:
            return read_question(message, served, asker, deadline_of(context), streams=streams)

        answer = await self._acceptor.accept(Asked(asker, message.id, read, in_message, cleanup), context)
        form, texts = form_of(message, asker, streams=streams), list[str]()
        async with answer.generation:
            async for event in answer.generation:
                match event:
                    case Failed():
                        raise ToldError(describe_failure(event.error, asker.request_id))
                    case Delta() if form.parts:
                        if event.text:
                            yield part_response(form, event.text)
                    case Delta():
                        texts.append(event.text)
                    case Finished():
                        yield last_response(form, "".join(texts), event, answer.request)

    def _is_ready(self) -> bool:
        try:
            return self._operations().state == "serving"
        except Unavailable:
            return False
