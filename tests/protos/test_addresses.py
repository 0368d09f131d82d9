"""Who can reach an address."""

from __future__ import annotations

import pytest

from numoe.protos.addresses import is_loopback
from numoe.protos.errors import SetupError


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", True),
        ("127.1.2.3:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:/run/numoe", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("example.com:1", False),
        (":1", False),
    ],
)
def test_loopback_is_recognised(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", ""])
def test_an_address_without_a_port_is_refused(address: str) -> None:
    with pytest.raises(SetupError, match="no port"):
        is_loopback(address)
