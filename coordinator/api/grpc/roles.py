"""Which role every call of gRPC needs. One that is not listed is refused to all as soon as keys are asked for."""

from __future__ import annotations

from numoe.coordinator.access.roles import Role

_GENERATION, _MODEL = "/numoe.v1.GenerationService/", "/numoe.v1.ModelService/"
_PLACEMENT, _OPERATIONS = "/numoe.v1.PlacementService/", "/numoe.v1.OperationsService/"
_INFERENCE = "/inference.GRPCInferenceService/"
_HEALTH, _REFLECTION = "/grpc.health.v1.Health/", "/grpc.reflection.v1alpha.ServerReflection/"

ROLES = {
    f"{_GENERATION}Generate": Role.INFER,
    f"{_GENERATION}Chat": Role.INFER,
    f"{_GENERATION}Tokenize": Role.INFER,
    f"{_GENERATION}Detokenize": Role.INFER,
    f"{_MODEL}GetModel": Role.KNOWN,
    f"{_PLACEMENT}GetPlacement": Role.OBSERVE,
    f"{_PLACEMENT}Rebalance": Role.OPERATE,
    f"{_OPERATIONS}GetStatus": Role.OBSERVE,
    f"{_OPERATIONS}WatchStatus": Role.OBSERVE,
    f"{_OPERATIONS}WatchPlacement": Role.OBSERVE,
    f"{_OPERATIONS}ListEvents": Role.OBSERVE,
    f"{_OPERATIONS}WatchEvents": Role.OBSERVE,
    f"{_OPERATIONS}AbortRequest": Role.OPERATE,
    f"{_OPERATIONS}Drain": Role.OPERATE,
    f"{_OPERATIONS}Profile": Role.OBSERVE,
    f"{_INFERENCE}ServerLive": Role.KNOWN,
    f"{_INFERENCE}ServerReady": Role.KNOWN,
    f"{_INFERENCE}ModelReady": Role.KNOWN,
    f"{_INFERENCE}ServerMetadata": Role.KNOWN,
    f"{_INFERENCE}ModelMetadata": Role.KNOWN,
    f"{_INFERENCE}ModelInfer": Role.INFER,
    f"{_INFERENCE}ModelStreamInfer": Role.INFER,
    f"{_HEALTH}Check": Role.KNOWN,
    f"{_HEALTH}Watch": Role.KNOWN,
    f"{_HEALTH}List": Role.KNOWN,
    f"{_REFLECTION}ServerReflectionInfo": Role.KNOWN,
}
# Open where they ask for no service by name: whether the whole lives and takes requests.
LIVENESS = (f"{_HEALTH}Check", f"{_HEALTH}Watch")
EVERY_SERVICE = ""
