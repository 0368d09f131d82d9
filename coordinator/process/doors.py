"""The doors of the service, gRPC and HTTP: opened together before anything is loaded, closed together at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from numoe.coordinator.access.certificates import FollowedCertificates, certificate_files
from numoe.coordinator.access.key_ring import KeyRing
from numoe.coordinator.api.grpc.server import GrpcServer
from numoe.coordinator.api.http.inference import Inference
from numoe.coordinator.api.http.server import HttpServer
from numoe.coordinator.api.served_model import ModelSource
from numoe.coordinator.operations.operations import Operations
from numoe.coordinator.operations.snapshot import Service
from numoe.coordinator.requests.request_end import Report
from numoe.coordinator.settings import ListenSettings, http_address


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where clients are heard, with real ports."""

    grpc: str
    http: str  # "": HTTP is off


class Doors:
    """Until the model is loaded `source` and `operations` raise Unavailable, which is what clients are told."""

    def __init__(
        self,
        settings: ListenSettings,
        source: ModelSource,
        operations: Callable[[], Operations],
        loading: Callable[[], Service],
        report: Report,
        keys: KeyRing,
    ) -> None:
        """`loading` tells how far loading is; `report` is told of requests that are refused. Raises SetupError."""
        http, files = http_address(settings), certificate_files(settings)

        def followed() -> FollowedCertificates | None:
            """For each door, which has to be told of news itself."""
            return None if files is None else FollowedCertificates(files)

        self._grpc = GrpcServer(settings, source, operations, report, keys, followed())
        inference, origins = Inference(source, report), settings.cors_origins
        self._http = HttpServer(http, operations, loading, inference, keys, followed(), origins) if http else None

    async def open(self) -> Addresses:
        """Listen, not serving yet. Raises AddressInUse or SetupError, with every door shut."""
        grpc = await self._grpc.start()
        try:
            return Addresses(grpc, "" if self._http is None else await self._http.start())
        except BaseException:
            await self._grpc.stop()
            raise

    def set_health(self, *, serving: bool) -> None:
        """What health checks of gRPC are told; those of HTTP look for themselves."""
        self._grpc.set_health(serving=serving)

    def announce_end(self) -> None:
        """Tell health checks that the service will not serve again."""
        self._grpc.announce_end()

    async def close(self) -> None:
        """End every call and stream, and give the addresses back."""
        if self._http is not None:
            await self._http.stop()
        await self._grpc.stop()
