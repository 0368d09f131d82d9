"""The gRPC server: its address, its services, its health."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_NAME
from grpc_reflection.v1alpha import reflection

from numoe.coordinator.access.certificates import FollowedCertificates, Pem
from numoe.coordinator.access.key_ring import KeyRing
from numoe.coordinator.addresses import explain_refusal
from numoe.coordinator.api.grpc.accepting import Acceptor
from numoe.coordinator.api.grpc.calls import CallInterceptor
from numoe.coordinator.api.grpc.generation import GenerationService
from numoe.coordinator.api.grpc.health import HealthService
from numoe.coordinator.api.grpc.inference import InferenceService
from numoe.coordinator.api.grpc.model import ModelService
from numoe.coordinator.api.grpc.operations import OperationsService, OperationsSource
from numoe.coordinator.api.grpc.placement import PlacementService
from numoe.coordinator.api.served_model import ModelSource
from numoe.coordinator.requests.request_end import Report
from numoe.coordinator.settings import ListenSettings
from numoe.oip import open_inference_pb2_grpc
from numoe.v1 import generation_pb2_grpc, model_pb2_grpc, operations_pb2_grpc, placement_pb2_grpc

SERVICE_NAMES = (
    "numoe.v1.GenerationService",
    "numoe.v1.ModelService",
    "numoe.v1.PlacementService",
    "numoe.v1.OperationsService",
    "inference.GRPCInferenceService",
)
OTHER_CALLS = 16_384  # open at once beside generating ones: health checks that watch, for one; each takes some 50 kB
# Connections that may be open at once, above which new ones are closed. Not so many for each address: gRPC counts them
# together, and shows them to nobody; whoever lets strangers in has nftables' connlimit or a proxy count by address.
CONNECTIONS = 4096
# Calls of one method that come before earlier ones were taken in wait in gRPC. Left to itself it would end them as
# CANCELLED, as though their clients had: above 1,000 some, and after 30 s, which hundreds wait on a busy machine, all.
WAITING_CALLS = OTHER_CALLS
WAITING_SECONDS = 86_400  # a call ends by its deadline or its client
UNUSED_MILLISECONDS = 300_000  # without a call, after which a connection is closed; clients open another when they call
CLOSE_SECONDS = 1.0  # for answers that are complete but not sent yet


class GrpcServer:
    """One listening address; until the model is loaded every call but those for health is refused."""

    def __init__(
        self,
        settings: ListenSettings,
        source: ModelSource,
        operations: OperationsSource,
        report: Report,
        keys: KeyRing,
        certificates: FollowedCertificates | None,
    ) -> None:
        """`report` is told of requests that are refused; `certificates`: None: nothing is encrypted."""
        self._certificates = certificates
        self._address = settings.address
        self._health = HealthService(SERVICE_NAMES)
        self._server = grpc.aio.server(
            interceptors=[CallInterceptor(keys)],
            options=_channel_options(settings),
            maximum_concurrent_rpcs=settings.concurrent_requests + OTHER_CALLS,
        )
        acceptor = Acceptor(source, settings.concurrent_requests, report)
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(GenerationService(source, acceptor), self._server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(source), self._server)
        placement_pb2_grpc.add_PlacementServiceServicer_to_server(PlacementService(source, operations), self._server)
        operations_pb2_grpc.add_OperationsServiceServicer_to_server(OperationsService(operations), self._server)
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            InferenceService(source, operations, acceptor), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*SERVICE_NAMES, HEALTH_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> str:
        """Listens, not serving yet; returns the address with its real port. Raises AddressInUse or SetupError."""
        address = self._listen()
        await self._server.start()
        return address

    def set_health(self, *, serving: bool) -> None:
        """What health checks are told of every service."""
        self._health.set(serving=serving)

    def announce_end(self) -> None:
        """Tells health checks that it will not serve again."""
        self._health.end()

    async def stop(self) -> None:
        """Ends every call and gives the address back."""
        await self._server.stop(CLOSE_SECONDS)

    def _listen(self) -> str:
        address = self._address
        try:
            if self._certificates is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, _credentials(self._certificates))
        except RuntimeError as error:
            raise explain_refusal(address) from error  # gRPC itself only says that it could not
        return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


def _credentials(certificates: FollowedCertificates) -> grpc.ServerCredentials:
    """That follow the files of the certificates."""

    def news() -> grpc.ServerCertificateConfiguration | None:
        found = certificates.news()
        return None if found is None else _configuration(found)

    first, asks_clients = certificates.pem, certificates.pem.client_authority is not None
    return grpc.dynamic_ssl_server_credentials(_configuration(first), news, asks_clients)  # type: ignore[arg-type]  # None is no change


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.client_authority)


def _channel_options(settings: ListenSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # the default lets two servers share a port, and clients reach either
        ("grpc.max_receive_message_length", settings.message_bytes),
        ("grpc.max_concurrent_streams", 2 * settings.concurrent_requests + 64),  # of one connection; more wait there
        ("grpc.max_allowed_incoming_connections", CONNECTIONS),
        ("grpc.server.max_pending_requests", WAITING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", WAITING_CALLS),
        ("grpc.server_max_unrequested_time_in_server", WAITING_SECONDS),
        ("grpc.max_connection_idle_ms", UNUSED_MILLISECONDS),
        ("grpc.keepalive_time_ms", 30_000),  # a client that vanished without a word holds its slot no longer than this
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ]
