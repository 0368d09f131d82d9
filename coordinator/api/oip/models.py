"""What the protocol is told of the server and its one model: names, versions, tensors."""

from __future__ import annotations

from importlib.metadata import version

from numoe.coordinator.api.oip.tensors import BYTES, TEXT_INPUT, TEXT_OUTPUT
from numoe.coordinator.api.served_model import ServedModel
from numoe.oip.open_inference_pb2 import ModelMetadataResponse, ServerMetadataResponse
from numoe.protos.errors import ModelNotFound

SERVER = "numoe"
MODEL_VERSION = "1"  # of a service's one model, which has no others


def is_served(name: str, wanted_version: str, served: ServedModel) -> bool:
    """Whether a client that names a model and a version ("": any) means the one that is served."""
    return name == served.spec.name and wanted_version in ("", MODEL_VERSION)


def check_served(name: str, wanted_version: str, served: ServedModel) -> None:
    """Raises ModelNotFound."""
    if not is_served(name, wanted_version, served):
        raise ModelNotFound(
            f"the model is {name!r:.100}, version {wanted_version!r:.20}; this service serves {served.spec.name!r}, "
            f"version {MODEL_VERSION}, and no other"
        )


def server_metadata() -> ServerMetadataResponse:
    """The server."""
    return ServerMetadataResponse(name=SERVER, version=version(SERVER))


def model_metadata(served: ServedModel) -> ModelMetadataResponse:
    """The model: one text becomes another."""
    tensor = ModelMetadataResponse.TensorMetadata
    return ModelMetadataResponse(
        name=served.spec.name,
        versions=[MODEL_VERSION],
        platform=SERVER,
        inputs=[tensor(name=TEXT_INPUT, datatype=BYTES, shape=[1])],
        outputs=[tensor(name=TEXT_OUTPUT, datatype=BYTES, shape=[1])],
    )
