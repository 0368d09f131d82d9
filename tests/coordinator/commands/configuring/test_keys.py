"""Keys and certificates from the command line: made, asked for, shown, and taken up while a service runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from numoe.coordinator.cluster.certificates import AUTHORITY, host_files, make_certificates
from tests.coordinator.commands.numoe_process import PATIENCE_SECONDS, numoe, start
from tests.log_lines import read_log

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Guarded:
    """A service with keys and a certificate."""

    address: str
    folder: Path
    process_id: int

    def flags(self, role: str) -> tuple[str, ...]:
        """Of a client that shows the key with this role."""
        return ("--key-file", str(self.folder / role), *self.trust)

    @property
    def trust(self) -> tuple[str, ...]:
        return ("--address", self.address, "--tls-ca", str(self.folder / AUTHORITY), "--timeout-seconds", "30")


def add(folder: Path, role: str, name: str) -> None:
    """A key, and a file with it."""
    made = numoe("keys", "add", name, "--role", role, "--api-keys", str(folder / "keys"))
    assert made.returncode == 0, made.stderr
    (folder / name).write_text(made.stdout)


@pytest.fixture(scope="module")
def guarded(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    make_certificates(folder, [HOST])
    for role in ("infer", "observe", "operate"):
        add(folder, role, role)
    certificate, key = map(str, host_files(folder, HOST))
    own = ("--api-keys", str(folder / "keys"), "--tls-certificate", certificate, "--tls-key", key)
    process, address = start(model, *own)
    with process:
        yield Guarded(address, folder, process.pid)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, log
    kinds = [line["event"] for line in read_log(log)]
    assert "keys_reloaded" in kinds
    for role in ("infer", "observe", "operate"):
        assert (folder / role).read_text().strip() not in log


@pytest.mark.parametrize(
    ("role", "command"),
    [("infer", ("generate", "Hello", "--max-tokens", "1")), ("observe", ("status",)), ("operate", ("status",))],
)
def test_a_command_is_answered_with_a_key_of_its_role(guarded: Guarded, role: str, command: tuple[str, ...]) -> None:
    done = numoe(*command, *guarded.flags(role))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_key_may_come_from_the_environment(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMOE_KEY", (guarded.folder / "observe").read_text().strip())
    assert numoe("events", "--once", *guarded.trust).returncode == 0


def test_a_key_of_another_role_none_and_one_that_is_not_known_are_refused_in_one_line(guarded: Guarded) -> None:
    (guarded.folder / "strange").write_text("numoe-strange\n")
    for flags, said in (
        (guarded.flags("infer"), "needs a key with the role observe, and the key infer has infer (PERMISSION_DENIED)"),
        (guarded.trust, "a key is needed: send it as"),
        (guarded.flags("strange"), "for a new one (UNAUTHENTICATED); --key-file or the variable NUMOE_KEY"),
    ):
        done = numoe("status", *flags)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_new_key_is_taken_up_on_a_signal(guarded: Guarded) -> None:
    add(guarded.folder, "observe", "later")
    assert numoe("status", *guarded.flags("later")).returncode == 1
    os.kill(guarded.process_id, signal.SIGHUP)
    assert numoe("status", *guarded.flags("later")).returncode == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--address", "192.0.2.1:1", "--key-file", "KEY"), "encrypt with --tls-ca, or say --insecure"),
        (("--key-file", "NONE"), "none cannot be read"),
        (("--key-file", "EMPTY"), "holds no key"),
        (("--tls-ca", "NONE"), "none cannot be read"),
        (("--tls-certificate", "KEY", "--tls-key", "KEY"), "--tls-certificate needs --tls-ca"),
        (("--tls-certificate", "KEY"), "belong together"),
    ],
)
def test_credentials_that_cannot_be_used_are_refused(flags: tuple[str, ...], said: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("numoe-x\n")
    (tmp_path / "empty").write_text("\n")
    named = {"KEY": tmp_path / "key", "NONE": tmp_path / "none", "EMPTY": tmp_path / "empty"}
    done = numoe("status", *(str(named.get(flag, flag)) for flag in flags))
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    add(tmp_path, "infer", "me")
    again = numoe("keys", "add", "me", "--role", "operate", "--api-keys", str(tmp_path / "keys"))
    assert (again.returncode, again.stdout) == (2, "")
    assert "the name of me" in again.stderr


def test_serving_beyond_loopback_needs_both(tmp_path: Path, model: Path) -> None:
    add(tmp_path, "infer", "me")
    done = numoe("serve", str(model), "--address", "0.0.0.0:0", "--api-keys", str(tmp_path / "keys"))
    assert done.returncode == 2
    assert "--tls-certificate to guard it is missing" in done.stderr
