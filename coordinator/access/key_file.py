"""The file of keys: a line for each, with its name, its roles, its hash, and how much it may do at once.

    # name      roles            hash             requests at once, if bounded
    chat-page   infer            sha256:5e88...   4
    grafana     observe          sha256:2c62...
    ops         infer,operate    sha256:9f2c...

*Guarantees*: a key stands nowhere but where it was printed; nobody but the file's owner can read or change it.
*Rejected*: a hash that is slow by design (scrypt). It protects words that people choose; a key has 256 random bits,
which nobody tries through, and each call would pay for it with 50 ms.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from numoe.coordinator.access.roles import OF_KEYS, Role
from numoe.protos.errors import SetupError

KEY_BYTES = 32
PREFIX = "numoe-"  # by which people, and programs that look for leaked secrets, know a key
HASH = "sha256:"
MOST_KEYS = 1024  # each call is compared with all of them, which takes 0.3 ms then
FILE_BYTES = 1 << 20
MODE = 0o600

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key."""

    name: str  # by which log, page and fairness know who asks
    roles: frozenset[Role]
    digest: bytes = field(repr=False)
    most_open: int | None = None  # calls at once; None: as many as the service takes


def digest_of(key: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def read_keys(path: Path) -> tuple[Key, ...]:
    """All keys of the file. Raises SetupError: it is not there, not private, or a line of it makes no sense."""
    keys = tuple(_parse(path, _read(path)))
    if not keys:
        raise SetupError(f"{path} holds no key, so nobody could ask: make one with `numoe keys add NAME --role infer`")
    return keys


def add_key(path: Path, name: str, roles: Iterable[Role], most_open: int | None) -> str:
    """Append a new key to the file, which is made if it is not there; returns the key, which is kept nowhere.

    Raises SetupError: the name is no name or taken, or the file cannot be read or written.
    """
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    words = [name, ",".join(sorted(roles)), HASH + digest_of(key).hex(), *([] if most_open is None else [most_open])]
    line = "  ".join(map(str, words)) + "\n"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, MODE)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # of two that add the same name at once, one is refused
            text = _read(path)
            before = text if text.endswith("\n") or not text else f"{text}\n"
            tuple(_parse(path, before + line))
            file.write((before + line)[len(text) :].encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror}") from error
    return key


def _open_at_once(path: str, flags: int) -> int:
    """Without waiting for whoever writes into a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _read(path: Path) -> str:
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise SetupError(f"{path} is no file: expected one with a line for each key")
            if about.st_mode & 0o077 or about.st_uid not in (0, os.geteuid()):
                found = f"mode {about.st_mode & 0o777:o} of user {about.st_uid}"
                raise SetupError(f"{path} has {found}, expected {MODE:o} of user {os.geteuid()}: chmod 600 {path}")
            data = file.read(FILE_BYTES + 1)
    except OSError as error:
        remedy = "make it with `numoe keys add NAME --role infer`"
        raise SetupError(f"the file of keys {path} cannot be read: {error.strerror}; {remedy}") from error
    if len(data) > FILE_BYTES:
        raise SetupError(f"{path} has more than {FILE_BYTES} bytes: expected a line for each key")
    return data.decode(errors="replace")


def _parse(path: Path, text: str) -> Iterator[Key]:
    names, digests = set[str](), set[bytes]()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            key = _key(words)
        except ValueError as error:
            raise SetupError(f"{path}, line {number}: {error}") from error
        for taken, one, what in ((names, key.name, "name"), (digests, key.digest, "hash")):
            if one in taken:
                raise SetupError(f"{path}, line {number}: the {what} of {key.name} stands in a line before: remove one")
        names.add(key.name)
        digests.add(key.digest)
        if len(names) > MOST_KEYS:
            raise SetupError(f"{path} has more than {MOST_KEYS} keys, which is the most")
        yield key


def _key(words: list[str]) -> Key:
    """Raises ValueError, which says what is wrong but never repeats what may be a key."""
    if len(words) not in (3, 4):
        raise ValueError(f"found {len(words)} words, expected name, roles, hash and perhaps requests at once")
    name, roles, digest, *most = words
    if not _NAME.fullmatch(name):
        raise ValueError("the name is none: expected at most 64 letters, digits, dots, dashes and underscores")
    unknown = set(roles.split(",")) - set(OF_KEYS)
    if unknown:
        raise ValueError(f"the roles of {name} are not of {', '.join(OF_KEYS)}")
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"the hash of {name} is none: expected {HASH} and 64 hexadecimal digits, never the key itself")
    if most and not (most[0].isascii() and most[0].isdecimal() and 0 < int(most[0]) < 2**31):
        raise ValueError(f"the requests at once of {name} are no number of 1 or more")
    held = frozenset(map(Role, roles.split(",")))
    return Key(name, held, bytes.fromhex(digest.removeprefix(HASH)), int(most[0]) if most else None)
