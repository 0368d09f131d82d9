"""Who is refused over HTTP: other sites, and names that were made to point here."""

from __future__ import annotations

import pytest

from numoe.coordinator.api.http.guard import is_own_host, own_names, why_foreign, why_refused

NAMES = frozenset({"localhost", "box"})
SAME = {"host": "127.0.0.1:1", "content-type": "application/json"}


@pytest.mark.parametrize("host", ["localhost", "localhost:80", "127.0.0.1:1", "[::1]:9", "10.0.0.7:1", "BOX:1", "box"])
def test_own_hosts_are_served(host: str) -> None:
    assert is_own_host(host, NAMES)


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:50152", "localhost.evil.example", "box.evil.example", "[::1", "127.0.0.1.x"],
)
def test_hosts_that_a_dns_entry_could_make_are_not(host: str) -> None:
    assert not is_own_host(host, NAMES)


def test_a_service_knows_the_name_that_it_was_told_to_listen_on() -> None:
    assert "inference.lan" in own_names("inference.lan:80")
    assert not {"0.0.0.0", "127.0.0.1", "::"} & (own_names("0.0.0.0:80") | own_names("[::]:80"))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "https://127.0.0.1:1", "sec-fetch-site": "same-origin"},
        {"content-type": "application/json; charset=utf-8"},
    ],
)
def test_actions_of_the_page_and_of_programs_are_taken(more: dict[str, str]) -> None:
    assert why_refused(SAME | more) == ""


def test_a_program_may_leave_a_body_away_and_its_type_with_it() -> None:
    bare = {"host": "127.0.0.1:1"}
    for more in ({}, {"content-length": "0"}):
        assert why_refused(bare | more) == ""
    for more in ({"content-length": "2"}, {"transfer-encoding": "chunked"}, {"origin": "http://127.0.0.1:1"}):
        assert "content type" in why_refused(bare | more)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"origin": "http://evil.example"}, "origin 'http://evil.example'"),
        ({"origin": "http://127.0.0.1:2"}, "origin"),
        ({"origin": "null"}, "origin"),
        ({"sec-fetch-site": "cross-site"}, "cross-site"),
        ({"sec-fetch-site": "same-site"}, "same-site"),
        ({"sec-fetch-site": "none"}, "none"),
        ({"content-type": "text/plain"}, "content type 'text/plain'"),
        ({"content-type": "application/x-www-form-urlencoded"}, "content type"),
        ({"content-type": ""}, "content type"),
    ],
)
def test_actions_that_another_site_can_send_are_refused(more: dict[str, str], why: str) -> None:
    assert why in why_refused(SAME | more)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_person_may_look_at_an_address_that_he_typed(method: str) -> None:
    typed = {"host": "127.0.0.1:1", "sec-fetch-site": "none"}
    assert why_foreign(typed, method=method) == ""
    assert "none" in why_foreign(typed, method="POST")
    assert "none" in why_foreign(typed)
    for lured in ({"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}):
        assert why_foreign(typed | lured, method=method) != ""
