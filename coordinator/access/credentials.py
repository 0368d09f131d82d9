"""What a client shows to a service: its key, and what it trusts and shows of certificates."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from numoe.coordinator.access.contexts import load_chain
from numoe.protos.addresses import is_loopback
from numoe.protos.errors import SetupError

KEY_VARIABLE = "NUMOE_KEY"
SYSTEM = "system"
KEY_FILE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Trust:
    """Of an encrypted connection, as bytes of PEM."""

    authority: bytes | None  # None: whom this system trusts
    key: bytes | None = field(default=None, repr=False)  # and a certificate: of the client itself
    certificate: bytes | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """How a client comes in."""

    key: str = field(default="", repr=False)  # "": it has none
    trust: Trust | None = None  # None: nothing is encrypted


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where that is found."""

    key_file: Path | None = None
    """A file with the key that the service asks for. Default: the variable NUMOE_KEY."""

    tls_ca: str | None = None
    """Talk encrypted to a service whose certificate an authority in this file has issued, or system for those that this
    system trusts. Default: nothing is encrypted."""

    tls_certificate: Path | None = None
    """This client's own certificate, where the service asks for one; with --tls-key."""

    tls_key: Path | None = None
    """The key of this client's own certificate."""

    insecure: bool = False
    """Send the key beyond this machine although nothing is encrypted."""

    def read(self, address: str, *, is_encrypted: bool = False) -> Access:
        """What to show at an address; `is_encrypted`: there in any case.

        Raises SetupError: a file cannot be read, or the key would be seen by others.
        """
        key = os.environ.get(KEY_VARIABLE, "") if self.key_file is None else _key(self.key_file)
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise SetupError(f"the key has blanks or characters beyond ASCII, found in {self.key_file or KEY_VARIABLE}")
        if (self.tls_certificate is None) is not (self.tls_key is None):
            raise SetupError("--tls-certificate and --tls-key belong together: name both or none")
        if self.tls_ca is None:
            if self.tls_certificate is not None:
                raise SetupError("--tls-certificate needs --tls-ca, without which nothing is encrypted")
            if key and not (is_encrypted or self.insecure or is_loopback(address)):
                raise SetupError(
                    f"the key would travel to {address} for all to read: encrypt with --tls-ca, or say --insecure"
                )
            return Access(key)
        authority = None if self.tls_ca == SYSTEM else _bytes(Path(self.tls_ca))
        own = [None if path is None else _bytes(path) for path in (self.tls_key, self.tls_certificate)]
        return Access(key, Trust(authority, *own))


def client_context(trust: Trust) -> ssl.SSLContext:
    """The same for Python's own connections. Raises SetupError: what is there is no certificate, or no key."""
    try:
        context = ssl.create_default_context(cadata=trust.authority and trust.authority.decode("ascii", "ignore"))
        if trust.key is not None and trust.certificate is not None:
            load_chain(context, trust.key, trust.certificate)
    except (ssl.SSLError, ValueError) as error:
        raise SetupError(f"--tls-ca, --tls-certificate or --tls-key is not in PEM: {error}") from error
    return context


def _key(path: Path) -> str:
    key = _bytes(path).decode(errors="replace").strip()
    if not key or len(key) > KEY_FILE_BYTES:
        raise SetupError(f"{path} holds no key: expected one line, as `numoe keys add` writes it")
    return key


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}") from error
