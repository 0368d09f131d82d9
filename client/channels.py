"""Connections to a service: how they are opened, and what every call on them shows."""

from __future__ import annotations

import grpc

from numoe.protos.addresses import is_loopback
from numoe.protos.errors import SetupError

Headers = tuple[tuple[str, str], ...]

OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # a proxy for the web does not know this machine's loopback
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel connects at once, whatever became of the one before
    ("grpc.max_reconnect_backoff_ms", 1000),  # left to itself a channel pauses for up to two minutes between attempts
)


def open_channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    """`credentials`: None: nothing is encrypted."""
    if credentials is None:
        return grpc.insecure_channel(address, OPTIONS)
    return grpc.secure_channel(address, credentials, OPTIONS)


def open_aio_channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    """`credentials`: None: nothing is encrypted."""
    if credentials is None:
        return grpc.aio.insecure_channel(address, OPTIONS)
    return grpc.aio.secure_channel(address, credentials, OPTIONS)


def headers_of(key: str) -> Headers:
    """What shows the key; "": there is none. gRPC's own credentials would refuse to where nothing is encrypted."""
    return (("authorization", f"Bearer {key}"),) if key else ()


def refuse_to_tell(key: str, address: str, credentials: grpc.ChannelCredentials | None) -> None:
    """Raises SetupError where others would see the key on its way."""
    if key and credentials is None and not is_loopback(address):
        raise SetupError(
            f"the key would travel to {address} for all to read: "
            "encrypt with credentials=grpc.ssl_channel_credentials(), or say insecure=True"
        )
