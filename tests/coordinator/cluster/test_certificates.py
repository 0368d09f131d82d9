"""Hosts know each other by certificates of one authority: who has none of it is neither heard nor spoken to."""

from __future__ import annotations

import datetime
import shutil
import stat
from pathlib import Path

import pytest
from cryptography import x509

from numoe.coordinator.cluster import certificates
from numoe.coordinator.cluster.certificates import HostCredentials, load_credentials, make_certificates
from numoe.coordinator.stages import link
from numoe.coordinator.stages.link import Wire
from numoe.protos.errors import SetupError, WorkerLost
from tests.coordinator.stages.fake_hosts import SECONDS, FakeHost, tiny_spec

HOST = "127.0.0.1"


def wire(credentials: HostCredentials | None) -> Wire:
    return Wire("1", "service", 1 << 20, credentials)


def credentials_of(folder: Path, host: str = HOST) -> HostCredentials:
    make_certificates(folder, [host])
    return load_credentials(folder, host)


def speak(own: Wire, host: FakeHost, *, welcome: bool) -> None:
    """Open a stream to a host, which succeeds or not, and close it."""
    stream = link.StageLink(own, (host.address,), lambda result: None, lambda lost: None)
    if welcome:
        stream.wait_open(SECONDS)
    else:
        with pytest.raises(WorkerLost, match=host.address):
            stream.wait_open(SECONDS)
    stream.close()


def test_hosts_of_one_authority_speak_to_each_other_and_nobody_else_does(tmp_path: Path) -> None:
    own, strangers = credentials_of(tmp_path / "own"), credentials_of(tmp_path / "other")
    host = FakeHost("host1", tiny_spec(tmp_path), wire(own))
    try:
        for theirs, welcome in ((own, True), (strangers, False), (None, False)):
            speak(wire(theirs), host, welcome=welcome)
    finally:
        host.close()


def test_a_host_with_a_certificate_for_another_address_is_not_believed(tmp_path: Path) -> None:
    make_certificates(tmp_path, [HOST, "10.0.0.9"])
    host = FakeHost("host1", tiny_spec(tmp_path), wire(load_credentials(tmp_path, "10.0.0.9")))
    try:
        speak(wire(load_credentials(tmp_path, HOST)), host, welcome=False)
    finally:
        host.close()


def test_new_certificates_and_a_new_authority_need_no_restart(tmp_path: Path) -> None:
    """Each host's folder is its own, as on different machines; a stream that is open stays so."""
    here, there, new = (tmp_path / name for name in ("here", "there", "new"))
    make_certificates(here, [HOST])
    shutil.copytree(here, there)
    host = FakeHost("host1", tiny_spec(tmp_path), wire(load_credentials(there, HOST)))
    own = wire(load_credentials(here, HOST))

    def give(folder: Path, *names: str) -> None:
        for name in names:
            shutil.copy(new / name, folder / name)

    try:
        speak(own, host, welcome=True)
        make_certificates(new, [HOST])
        old = (here / "ca.pem").read_bytes()
        own_files = (f"host-{HOST}.pem", f"host-{HOST}.key")
        for folder in (here, there):  # both authorities are believed, then certificates change one after the other
            (folder / "ca.pem").write_bytes(old + (new / "ca.pem").read_bytes())
        for folder in (there, here):
            give(folder, *own_files)
            speak(own, host, welcome=True)
        give(there, "ca.pem")
        speak(own, host, welcome=True)
        (there / "ca.pem").write_bytes(b"nothing")  # what was good is kept
        speak(own, host, welcome=True)
        make_certificates(tmp_path / "strangers", [HOST])
        for name in ("ca.pem", *own_files):
            shutil.copy(tmp_path / "strangers" / name, here / name)
        speak(own, host, welcome=False)
    finally:
        host.close()


def test_keys_are_for_their_owner_alone_and_the_authority_stays(tmp_path: Path) -> None:
    first = make_certificates(tmp_path / "made", ["10.0.0.1"])
    authority = (tmp_path / "made" / "ca.pem").read_bytes()
    assert [path.name for path in first] == ["ca.pem", "ca.key", "host-10.0.0.1.pem", "host-10.0.0.1.key"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in first if path.suffix == ".key"] == [0o600] * 2
    again = make_certificates(tmp_path / "made", ["10.0.0.1", "fd00::2"])
    assert [path.name for path in again] == [
        "host-10.0.0.1.pem",
        "host-10.0.0.1.key",
        "host-fd00::2.pem",
        "host-fd00::2.key",
    ]
    assert (tmp_path / "made" / "ca.pem").read_bytes() == authority
    load_credentials(tmp_path / "made", "fd00::2")


def test_what_cannot_be_used_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SetupError, match="expected the IP address"):
        make_certificates(tmp_path, ["example.org"])
    with pytest.raises(SetupError, match=r"ca\.pem cannot be read.*numoe host certificates"):
        load_credentials(tmp_path, HOST)
    make_certificates(tmp_path, [HOST])
    (tmp_path / "ca.key").rename(tmp_path / "away")
    with pytest.raises(SetupError, match=r"ca\.key is missing"):
        make_certificates(tmp_path, [HOST])
    credentials_of(tmp_path / "other")
    (tmp_path / "ca.pem").write_bytes((tmp_path / "other" / "ca.pem").read_bytes())
    with pytest.raises(SetupError, match="is no certificate by"):
        load_credentials(tmp_path, HOST)
    (tmp_path / "host-127.0.0.1.pem").write_text("nothing")
    with pytest.raises(SetupError, match="is no certificate by"):
        load_credentials(tmp_path, HOST)
    monkeypatch.setattr(certificates, "HOST_DAYS", -1 / 48)  # after it began, an hour ago
    make_certificates(tmp_path / "old", [HOST])
    with pytest.raises(SetupError, match="ended on"):
        load_credentials(tmp_path / "old", HOST)


def test_certificates_live_longer_than_a_year(tmp_path: Path) -> None:
    make_certificates(tmp_path, [HOST])
    found = x509.load_pem_x509_certificate((tmp_path / "host-127.0.0.1.pem").read_bytes())
    left = found.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert left > datetime.timedelta(days=399)
