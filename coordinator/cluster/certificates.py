"""Certificates by which hosts of a cluster know each other: an authority of the owner's own, and one for each host.

Every host needs AUTHORITY, and its own certificate and key. The authority's key stays where certificates are made.

Files are read anew for every stream that is opened and for every one that is answered, so that new certificates need no
restart. AUTHORITY may hold several, one after the other: while one takes another's place, both are believed.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from numoe.protos.errors import SetupError

_log = structlog.get_logger()
AUTHORITY, AUTHORITY_KEY = "ca.pem", "ca.key"
AUTHORITY_YEARS, HOST_DAYS = 10, 400
NAME = "numoe hosts"


@dataclass(frozen=True, slots=True)
class HostCredentials:
    """For the streams of one host: as a client of others, and as a server."""

    folder: Path
    host: str

    def client(self) -> grpc.ChannelCredentials:
        """As the files are now. Raises SetupError."""
        return grpc.ssl_channel_credentials(*_read(self.folder, self.host))

    def server(self) -> grpc.ServerCredentials:
        """That follow the files; where those are no good any more, what they were is kept. Raises SetupError."""
        last = _read(self.folder, self.host)

        def news() -> grpc.ServerCertificateConfiguration | None:
            nonlocal last
            try:
                found = _read(self.folder, self.host)
            except SetupError as error:
                _log.error("certificates_unreadable", error=str(error))
                return None
            if found == last:
                return None
            last = found
            return _server_configuration(found)

        return grpc.dynamic_ssl_server_credentials(_server_configuration(last), news, True)  # type: ignore[arg-type]  # None is no change


_Pem = tuple[bytes, bytes, bytes]  # of the authority, the key, the certificate


def _server_configuration(pem: _Pem) -> grpc.ServerCertificateConfiguration:
    authority, key, certificate = pem
    return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)


def make_certificates(folder: Path, hosts: list[str]) -> list[Path]:
    """Write a certificate and a key for each host, and an authority where there is none yet; returns what was written.

    Raises SetupError: a host is no IP address, or the folder has half of an authority.
    """
    addresses = [_address(host) for host in hosts]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority, key_path = folder / AUTHORITY, folder / AUTHORITY_KEY
    if authority.exists() != key_path.exists():
        lacking = key_path if authority.exists() else authority
        raise SetupError(f"{lacking} is missing beside the other half: bring it back, or begin in an empty folder")
    written = []
    if not authority.exists():
        _make_authority(authority, key_path)
        written += [authority, key_path]
    issuer = x509.load_pem_x509_certificate(authority.read_bytes())
    issuing = serialization.load_pem_private_key(key_path.read_bytes(), None)
    assert isinstance(issuing, ec.EllipticCurvePrivateKey)
    for host, address in zip(hosts, addresses, strict=True):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = _builder(name, issuer.subject, key, datetime.timedelta(days=HOST_DAYS))
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(address)]), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(usage, critical=False)
        made = builder.sign(issuing, hashes.SHA256())
        certificate_path, own_key = host_files(folder, host)
        certificate_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        _write_key(own_key, key)
        written += [certificate_path, own_key]
    return written


def host_files(folder: Path, host: str) -> tuple[Path, Path]:
    """The certificate and the key of a host."""
    return folder / f"host-{host}.pem", folder / f"host-{host}.key"


def load_credentials(folder: Path, host: str) -> HostCredentials:
    """What a host's streams need. Raises SetupError: a file is missing, or the certificate is over or another's."""
    _read(folder, host)
    return HostCredentials(folder, host)


def _read(folder: Path, host: str) -> _Pem:
    certificate_path, key_path = host_files(folder, host)
    try:
        authority, certificate, key = (path.read_bytes() for path in (folder / AUTHORITY, certificate_path, key_path))
    except OSError as error:
        remedy = f"make it with `numoe host certificates {folder} --host {host}`, and copy it here"
        raise SetupError(f"{error.filename} cannot be read: {error.strerror}; {remedy}") from error
    try:
        found = x509.load_pem_x509_certificate(certificate)
        _check_issued(found, x509.load_pem_x509_certificates(authority))
    except Exception as error:  # of many kinds: of the file's form, of the signature
        problem = f"{certificate_path} is no certificate by {folder / AUTHORITY}"
        raise SetupError(f"{problem}: {str(error) or type(error).__name__}; make it anew") from error
    if found.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        raise SetupError(f"{certificate_path} ended on {found.not_valid_after_utc:%Y-%m-%d}: make a new one")
    return authority, key, certificate


def _check_issued(certificate: x509.Certificate, authorities: list[x509.Certificate]) -> None:
    """Raise what checking raises, unless one of the authorities has issued it."""
    for number, authority in enumerate(authorities, 1):
        try:
            certificate.verify_directly_issued_by(authority)
        except Exception:  # of many kinds
            if number == len(authorities):
                raise
        else:
            return


def _make_authority(path: Path, key_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    unlike_others = f"{NAME} {secrets.token_hex(4)}"  # who issued a certificate is found by this name
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, unlike_others)])
    builder = _builder(name, name, key, datetime.timedelta(days=365 * AUTHORITY_YEARS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    _write_key(key_path, key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, life: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    # An hour back, as the hosts' clocks may differ.
    return builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + life)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.private_bytes(*form))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(host)
    except ValueError as error:
        raise SetupError(f"--host is {host!r}, expected the IP address by which the others reach it") from error
