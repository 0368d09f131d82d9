"""The HTTP server, in the event loop of the process: uvicorn without its own loop, signals and logging.

uvicorn's `serve` takes over signals and looks ten times a second whether it shall end; here its parts are called: one
socket, `startup`, `shutdown`. It answers by h11 (connection.py), logs nothing, and writes no Date, which that look
would keep right.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Collection
from functools import partial

import uvicorn

from numoe.coordinator.access.certificates import FollowedCertificates
from numoe.coordinator.access.key_ring import KeyRing
from numoe.coordinator.addresses import explain_refusal
from numoe.coordinator.api.http.actions import Actions
from numoe.coordinator.api.http.asked import Asked
from numoe.coordinator.api.http.connection import CONNECTIONS, IDLE_SECONDS, Connection, Handshakes
from numoe.coordinator.api.http.guard import Guard, own_names
from numoe.coordinator.api.http.inference import Inference
from numoe.coordinator.api.http.routes import Views, application, misdirected, route_table
from numoe.coordinator.api.http.tls import follow
from numoe.coordinator.operations.operations import Operations
from numoe.coordinator.operations.snapshot import Service

CLOSE_SECONDS = 1  # for answers that are complete but not sent yet
UNSENT_MILLISECONDS = 30_000  # for what was sent to be acknowledged: a client that vanished holds nothing longer
FLAG = "--http-address"


class HttpServer:
    """One listening address."""

    def __init__(
        self,
        address: str,
        source: Callable[[], Operations],
        loading: Callable[[], Service],
        inference: Inference,
        keys: KeyRing,
        certificates: FollowedCertificates | None,
        origins: Collection[str] = (),
    ) -> None:
        """`source` raises Unavailable while the model is loaded, of which `loading` tells.

        `inference` asks the model; pages of `origins` may have it do so, too. `certificates`: None: nothing is
        encrypted.
        """
        self._address = address
        self._closed = asyncio.Event()
        self._actions = Actions(source)
        self._socket: socket.socket | None = None
        views = Views(source, loading, self._closed)
        app = application(route_table(views, self._actions, Asked(inference)), keys, origins)
        names = None if keys.asks else own_names(address)
        self._server = uvicorn.Server(
            uvicorn.Config(
                Guard(app, names, misdirected),
                http=partial(Connection, handshakes=Handshakes()),  # type: ignore[arg-type]  # as good as a class
                ssl_context_factory=None if certificates is None else lambda *_: follow(certificates),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=CLOSE_SECONDS,
            )
        )

    async def start(self) -> str:
        """Listens; returns the address with its real port. Raises AddressInUse or SetupError."""
        logger = logging.getLogger("uvicorn")
        logger.propagate = False
        logger.addHandler(logging.NullHandler())  # a client's faults are no news, and ours are told elsewhere
        self._socket = self._listen()
        config = self._server.config
        config.load()
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup(sockets=[self._socket])
        return f"{self._address.rpartition(':')[0]}:{self._socket.getsockname()[1]}"

    async def stop(self) -> None:
        """Ends every stream and connection, and gives the address back; harmless when repeated."""
        if self._socket is None:
            return
        listening, self._socket = self._socket, None
        self._closed.set()
        await self._actions.close()
        await self._server.shutdown(sockets=[listening])

    def _listen(self) -> socket.socket:
        host, _, port = self._address.rpartition(":")
        name = "127.0.0.1" if host == "localhost" else host.strip("[]")
        try:
            family = socket.AF_INET6 if ":" in name else socket.AF_INET
            listening = socket.create_server((name, int(port)), family=family, backlog=CONNECTIONS)
        except OSError as error:
            raise explain_refusal(self._address, FLAG) from error
        # Connections inherit both. asyncio sets the second itself where the listening socket names its protocol, which
        # create_server's does not: on a connection that is kept each answer, and parts of streams, then wait 40 ms.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNSENT_MILLISECONDS)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
