"""Which hosts and pages come in: names of this machine, listed pages, and pages of the same host."""

from __future__ import annotations

import pytest
from tests.unit.gateway.auth.door import HOST, Door, raw, refused, tokens

from smithers.gateway.auth.config import TokenAuth, TokenGrant
from smithers.gateway.auth.doorkeeper import ANYBODY
from smithers.gateway.auth.identity import Identity
from smithers.gateway.auth.sent import Sent
from smithers.gateway.problems import RpcError

LOCAL = [
    "",
    "localhost",
    "LOCALHOST:7331",
    "a.localhost:1",
    "127.0.0.1:7331",
    "127.9.9.9",
    "[::1]:7331",
    "[::1]",
    "::1",
]
FOREIGN = [
    "evil.example",
    "localhost.evil.com",
    "127.0.0.1.nip.io:7331",
    "localhost:7331.evil.com",
    "evil-localhost",
    "notlocalhost",
    "localhost@evil.com",
    "user@localhost",
    "[::1].evil.com",
    "[::ffff:8.8.8.8]",
    "[::1",
    "0.0.0.0:7331",
    "2130706433",
    "0x7f.1",
    "127.1",
    "192.168.0.1",
    "localhost,evil.com",
    "localhost evil.com",
]


@pytest.mark.parametrize("host", LOCAL)
def test_without_authentication_this_machine_comes_in(host: str) -> None:
    assert Door(None).request(host=host) == ANYBODY == Identity("operator", ("*",))
    assert Door(None).request() == ANYBODY
    assert Door(None).connect("ignored", host=host) == ANYBODY


@pytest.mark.parametrize("host", FOREIGN)
def test_without_authentication_no_other_name_is_answered(host: str) -> None:
    with pytest.raises(RpcError) as error:
        Door(None).request(host=host)
    assert refused(error) == "Host is not allowed"
    with pytest.raises(RpcError):
        Door(None).upgrade(host=host)
    with pytest.raises(RpcError):
        Door(None).connect(None, host=host)


@pytest.mark.parametrize("host", [host for host in LOCAL if host])
def test_without_authentication_pages_of_this_machine_come_in(host: str) -> None:
    if host != "::1":
        assert Door(None).request(host="localhost:7331", origin=f"http://{host}") == ANYBODY
    assert Door(None).request(host="localhost", origin="") == ANYBODY


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "NULL",
        "file://",
        "http://",
        "localhost",
        "//localhost",
        "http://localhost/",
        "http://localhost/path",
        "http://localhost?x",
        "http://localhost#@evil.com",
        "http://localhost\\@evil.com",
        "http://localhost@evil.com",
        "http://user:pw@localhost",
        "http://localhost http://evil.com",
        "http://evil.com/http://localhost",
        "http://evil.com\thttp://localhost",
        "http://[::1",
        *(f"https://{host}" for host in FOREIGN),
    ],
)
def test_without_authentication_no_other_page_is_answered(origin: str) -> None:
    for attempt in (Door(None).request, Door(None).upgrade):
        with pytest.raises(RpcError) as error:
            attempt(host="localhost:7331", origin=origin)
        assert refused(error) == "Origin is not allowed"


@pytest.mark.parametrize("origin", ["", "https://ui.example"])
def test_listed_pages_come_in(origin: str) -> None:
    door = Door(tokens(), origins="https://ui.example")
    assert door.request(**HOST, origin=origin, authorization="good")
    door.upgrade(**HOST, origin=origin)
    with_auth = Door(TokenAuth({"good": TokenGrant("operator", ("*",))}, allowed_origins=["https://ui.example"]))
    assert with_auth.request(**HOST, origin=origin, authorization="good")


@pytest.mark.parametrize(
    "origin",
    ["null", "http://ui.example", "https://ui.example:8443", "https://ui.example/", "https://UI.example", "https://x"],
)
def test_pages_that_are_not_listed_do_not(origin: str) -> None:
    door = Door(tokens(), origins="https://ui.example null")
    for attempt in (door.request, door.upgrade):
        with pytest.raises(RpcError, match="Origin is not allowed"):
            attempt(**HOST, origin=origin, authorization="good")


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("gateway.example:7331", ""),
        ("gateway.example:7331", "http://gateway.example:7331"),
        ("Gateway.Example:7331", "http://gateway.example:7331"),
        ("gateway.example", "https://gateway.example:443"),
        ("gateway.example:80", "http://gateway.example"),
        ("[::1]:7331", "http://[::1]:7331"),
        ("gateway.example:7331", "https://ui.example"),
    ],
)
def test_a_cookie_alone_lets_in_pages_of_the_same_host(host: str, origin: str) -> None:
    door = Door(tokens())
    name = Sent(raw(host=host)).cookie_name()
    if origin == "https://ui.example":
        door = Door(tokens(), origins=origin)
    assert door.request(host=host, origin=origin, cookie=f"{name}=good").token_id == "ci"
    door.upgrade(host=host, origin=origin, cookie=f"{name}=good")


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "https://evil.example",
        "http://gateway.example",
        "http://gateway.example:7332",
        "http://gateway.example:7331.evil.com",
        "http://gateway.example:7331@evil.com",
        "http://evil@gateway.example:7331",
        "http://gateway.example:7331/",
        "gateway.example:7331",
    ],
)
def test_a_cookie_alone_lets_no_other_page_in(origin: str) -> None:
    door = Door(tokens())
    foreign = {**HOST, "origin": origin, "cookie": "smithers_session_7331=good"}
    for attempt in (door.request, door.upgrade):
        with pytest.raises(RpcError) as error:
            attempt(**foreign)
        assert refused(error) == "Origin is not allowed"
    with pytest.raises(RpcError, match="Origin is not allowed"):
        door.connect(None, **foreign)
    assert door.request(**foreign, authorization="good")
    assert door.connect("good", **foreign)


def test_over_tls_a_page_without_it_is_of_another_host() -> None:
    door = Door(tokens(), is_tls=True)
    page = {**HOST, "cookie": "smithers_session_7331=good"}
    with pytest.raises(RpcError, match="Origin"):
        door.request(**page, origin="http://gateway.example:7331")
    assert door.request(**page, origin="https://gateway.example:7331")


def test_a_cookie_without_a_host_lets_only_pageless_requests_in() -> None:
    door = Door(tokens())
    assert door.request(cookie="smithers_session=good")
    with pytest.raises(RpcError, match="Origin"):
        door.request(cookie="smithers_session=good", origin="http://gateway.example")
    with pytest.raises(RpcError, match="Origin"):
        door.request(cookie="smithers_session=good", origin="http://:80")
