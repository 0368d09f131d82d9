"""The certificate of the service, and who may have issued those of its clients: files, and what is good of them.

Files are read anew for every connection, so that new certificates need no restart. New ones that are no good leave the
old ones in use, and the log says so once.
"""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from numoe.coordinator.access.contexts import load_chain
from numoe.coordinator.settings import ListenSettings
from numoe.protos.errors import SetupError

_log = structlog.get_logger()
_FORM = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where they lie."""

    certificate: Path  # and those of authorities between it and the root, behind it
    key: Path
    client_authority: Path | None  # None: clients need no certificate


@dataclass(frozen=True, slots=True)
class Pem:
    """What is in them."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_authority: bytes | None


def certificate_files(settings: ListenSettings) -> CertificateFiles | None:
    """None: nothing is encrypted."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return CertificateFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)


def read_pem(files: CertificateFiles) -> Pem:
    """Raises SetupError: a file cannot be read, they do not belong together, or the certificate is over."""
    pem = _bytes_of(files)
    _check(files, pem)
    return pem


class FollowedCertificates:
    """Of one door; by any thread, as gRPC asks in threads of its own."""

    def __init__(self, files: CertificateFiles) -> None:
        """Raises SetupError."""
        self._files = files
        self._lock = Lock()
        self._refused: Pem | None = None
        self._told = ""
        self.pem = read_pem(files)

    def news(self) -> Pem | None:
        """What has taken the place of what was found last; None: nothing that is any good."""
        with self._lock:
            try:
                found = _bytes_of(self._files)
                if found in (self.pem, self._refused):  # looking at a key may take longer than encrypting does
                    return None
                self._refused = found
                _check(self._files, found)
            except SetupError as error:
                if str(error) != self._told:
                    self._told = str(error)
                    _log.error("certificates_unreadable", error=self._told)
                return None
            self.pem, self._refused, self._told = found, None, ""
            return found


def serving_context(pem: Pem) -> ssl.SSLContext:
    """How a service of HTTP shows it. Raises ssl.SSLError: OpenSSL does not take it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load_chain(context, pem.key, pem.certificate)
    if pem.client_authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=pem.client_authority.decode("ascii", "ignore"))
    return context


def _bytes_of(files: CertificateFiles) -> Pem:
    authority = None if files.client_authority is None else _read(files.client_authority)
    return Pem(_read(files.certificate), _read(files.key), authority)


def _check(files: CertificateFiles, pem: Pem) -> None:
    leaf = _certificates(files.certificate, pem.certificate)[0]
    if leaf.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        raise SetupError(f"{files.certificate} ended on {leaf.not_valid_after_utc:%Y-%m-%d}: put a new one there")
    try:
        key = serialization.load_pem_private_key(pem.key, None)
    except Exception as error:  # of many kinds: of the file's form, of a password
        raise SetupError(f"{files.key} is no key without a password, in PEM: {_said(error)}") from error
    if key.public_key().public_bytes(*_FORM) != leaf.public_key().public_bytes(*_FORM):
        raise SetupError(f"{files.key} is not the key of {files.certificate}: expected both of one certificate")
    if files.client_authority is not None and pem.client_authority is not None:
        _certificates(files.client_authority, pem.client_authority)
    try:
        serving_context(pem)
    except ssl.SSLError as error:  # of a key that is too weak, of a certificate that is cut off behind the first
        raise SetupError(f"OpenSSL does not take {files.certificate} and {files.key}: {_said(error)}") from error


def _certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise SetupError(f"{path} holds no certificate in PEM: {_said(error)}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}") from error


def _said(error: Exception) -> str:
    """In one line."""
    return (str(error) or type(error).__name__).partition("\n")[0]
