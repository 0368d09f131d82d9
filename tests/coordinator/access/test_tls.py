"""Both doors encrypted: who trusts the service is answered, nobody else is, and new certificates are taken up."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from numoe.coordinator.access.certificates import CertificateFiles, read_pem
from numoe.coordinator.api.http import connection
from numoe.coordinator.cluster import certificates as making
from numoe.coordinator.cluster.certificates import host_files, make_certificates
from numoe.protos.errors import SetupError
from tests.coordinator.api.grpc.grpc_serving import PATIENCE_SECONDS, Running, running_server, settings_of, until
from tests.log_lines import captured

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority, and a certificate of its own for this machine."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return host_files(self.folder, HOST)[0]

    @property
    def key(self) -> Path:
        return host_files(self.folder, HOST)[1]

    @property
    def root(self) -> Path:
        return self.folder / making.AUTHORITY


def authority(folder: Path) -> Authority:
    make_certificates(folder, [HOST])
    return Authority(folder)


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return authority(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Authority:
    return authority(tmp_path / "theirs")


@asynccontextmanager
async def encrypted(ours: Authority, client_ca: Path | None = None) -> AsyncIterator[Running]:
    settings = settings_of()
    listen = replace(settings.listen, tls_certificate=ours.certificate, tls_key=ours.key, tls_client_ca=client_ca)
    async with running_server(settings=replace(settings, listen=listen)) as running:
        yield running


async def over_grpc(address: str, trusted: Authority | None, own: Authority | None = None) -> bool:
    """Whether health is told; `trusted`: None: the client encrypts nothing."""
    if trusted is None:
        channel = grpc.aio.insecure_channel(address)
    else:
        shown = (None, None) if own is None else (own.key.read_bytes(), own.certificate.read_bytes())
        credentials = grpc.ssl_channel_credentials(trusted.root.read_bytes(), *shown)
        channel = grpc.aio.secure_channel(address, credentials)
    async with channel:
        try:
            asked = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_SECONDS)
            return (await asked).status == health_pb2.HealthCheckResponse.SERVING  # type: ignore[no-any-return]
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False


async def over_http(address: str, trusted: Authority | None, own: Authority | None = None) -> bool:
    context: Any = None
    if trusted is not None:
        context = ssl.create_default_context(cafile=trusted.root)
        if own is not None:
            context.load_cert_chain(own.certificate, own.key)
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(PATIENCE_SECONDS):
        try:
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
            try:
                writer.write(f"GET /livez HTTP/1.0\r\nhost: {address}\r\n\r\n".encode())
                return (await reader.read()).startswith(b"HTTP/1.1 200")
            finally:
                writer.close()
        except (ssl.SSLError, ConnectionError):
            return False


async def answered(running: Running, trusted: Authority | None, own: Authority | None = None) -> tuple[bool, bool]:
    """Whether a client is answered over gRPC and over HTTP."""
    grpc_told = await over_grpc(running.ready.address, trusted, own)
    return grpc_told, await over_http(running.ready.http, trusted, own)


async def test_who_trusts_the_service_is_answered_and_nobody_else(ours: Authority, theirs: Authority) -> None:
    async with encrypted(ours) as running:
        assert await answered(running, None) == (False, False)
        assert await answered(running, theirs) == (False, False)
        assert await answered(running, ours) == (True, True)


async def test_a_client_needs_a_certificate_where_the_service_asks_for_one(ours: Authority, theirs: Authority) -> None:
    async with encrypted(ours, client_ca=theirs.root) as running:
        assert await answered(running, ours) == (False, False)
        assert await answered(running, ours, own=ours) == (False, False)
        assert await answered(running, ours, own=theirs) == (True, True)


def put(new: Authority, place: Authority) -> None:
    """Copy certificate and key over those that are in use."""
    place.key.write_bytes(new.key.read_bytes())
    place.certificate.write_bytes(new.certificate.read_bytes())


async def test_new_certificates_are_taken_up_and_broken_ones_leave_the_old_ones(
    ours: Authority, theirs: Authority, tmp_path: Path
) -> None:
    served = authority(tmp_path / "served")
    put(ours, served)
    with capture_logs() as logs:
        async with encrypted(served) as running:
            assert await answered(running, ours) == (True, True)
            served.certificate.write_bytes(theirs.certificate.read_bytes())  # whose key is not there yet
            assert await answered(running, ours) == (True, True)
            assert await answered(running, theirs) == (False, False)
            served.certificate.write_bytes(ours.certificate.read_bytes() + b"-----BEGIN CERTIFICATE-----\n")
            assert await answered(running, ours) == (True, True)
            put(theirs, served)
            assert await answered(running, theirs) == (True, True)
            assert await answered(running, ours) == (False, False)
    refused = [line for line in captured(logs) if line["event"] == "certificates_unreadable"]
    assert len(refused) == 4  # each once at each door, however many connections there were
    assert "is not the key of" in refused[0]["error"]
    assert "OpenSSL does not take" in refused[-1]["error"]


def test_files_that_are_no_good_refuse_the_start(
    ours: Authority, theirs: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none, nonsense = tmp_path / "none", tmp_path / "nonsense"
    nonsense.write_bytes(b"\xff nonsense")
    monkeypatch.setattr(making, "HOST_DAYS", 0)
    over = authority(tmp_path / "over")
    torn = tmp_path / "torn"  # as a copy that is under way leaves it
    torn.write_bytes(ours.certificate.read_bytes() + b"-----BEGIN CERTIFICATE-----\n")
    for files, said in (
        (CertificateFiles(none, ours.key, None), "none cannot be read"),
        (CertificateFiles(nonsense, ours.key, None), "no certificate in PEM"),
        (CertificateFiles(ours.certificate, nonsense, None), "no key without a password"),
        (CertificateFiles(ours.certificate, theirs.key, None), "is not the key of"),
        (CertificateFiles(ours.certificate, ours.key, nonsense), "no certificate in PEM"),
        (CertificateFiles(over.certificate, over.key, None), "ended on"),
        (CertificateFiles(torn, ours.key, None), "OpenSSL does not take .*torn"),
    ):
        with pytest.raises(SetupError, match=said) as refused:
            read_pem(files)
        assert "\n" not in str(refused.value)
    assert "PRIVATE" not in repr(read_pem(CertificateFiles(ours.certificate, ours.key, None)))


async def test_who_never_encrypts_gives_way(ours: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECTIONS", 8)
    async with encrypted(ours) as running:
        host, _, port = running.ready.http.rpartition(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
        async with asyncio.timeout(PATIENCE_SECONDS):
            for reader, _ in silent[:12]:
                assert await reader.read() == b""
        assert await over_http(running.ready.http, ours)
        for _, writer in silent:
            writer.transport.abort()


async def test_who_takes_long_to_encrypt_is_hung_up_on(ours: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CLIENT_SECONDS", 0.1)
    async with encrypted(ours) as running:
        host, _, port = running.ready.http.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await reader.read() == b""
        writer.close()
        door = running.coordinator._doors._http
        assert door is not None
        await until(lambda: not door._server.server_state.connections)
