"""Who is let through: addresses of this machine, tokens in either header."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smithers.asgi.bodies import lenient_int, parse_json
from smithers.asgi.guards import Guard, is_loopback_authority, is_loopback_origin
from smithers.errors import HostForbidden, InvalidJson, InvalidRequest, Unauthorized


@pytest.mark.parametrize(
    "authority",
    [
        "localhost",
        " LOCALHOST ",
        "a.localhost:80",
        "127.0.0.1",
        "127.9.9.9:1",
        "::1",
        "[::1]",
        "[::1]:7331",
        "::ffff:127.0.0.1",
    ],
)
def test_this_machine_has_many_names(authority: str) -> None:
    assert is_loopback_authority(authority)


@pytest.mark.parametrize(
    "authority",
    [
        "evil.example",
        "localhost.evil",
        "127.0.0.1.evil",
        "::1:80",
        "::2",
        "[::1",
        "[::1]x",
        "localhost:x",
        "1.127.0.0",
        "",
        "127.1",
    ],
)
def test_other_machines_have_none_of_them(authority: str) -> None:
    assert not is_loopback_authority(authority)


@pytest.mark.parametrize(
    "origin", ["null", "", "localhost", "http://", "http://localhost@evil", "http://[::1", "file:///x"]
)
def test_what_is_no_page_of_this_machine_is_no_origin(origin: str) -> None:
    assert not is_loopback_origin(origin)


@given(st.text(max_size=40))
def test_no_other_text_passes_as_the_token(text: str) -> None:
    given_token = text.encode("utf-8", "replace")
    if given_token in (b"secret",) or given_token[7:].strip() == b"secret":
        return
    with pytest.raises(Unauthorized):
        Guard("secret").check([(b"authorization", given_token), (b"x-smithers-key", given_token)])


def test_every_host_and_origin_header_counts() -> None:
    Guard().check([(b"host", b"localhost"), (b"origin", b"http://localhost:3000")])
    with pytest.raises(HostForbidden):
        Guard().check([(b"host", b"localhost"), (b"host", b"evil.example")])
    Guard(trusts_any_host=True).check([(b"host", b"evil.example")])


@given(st.binary(max_size=200))
def test_any_body_is_a_value_or_a_typed_refusal(body: bytes) -> None:
    with suppress(InvalidJson, InvalidRequest):
        parse_json(body)


@pytest.mark.parametrize(
    ("text", "number"),
    [("12abc", 12), ("-3", -3), ("+4 ", 4), ("x", None), ("", None), (None, None), ("9" * 400, 2**53 - 1)],
)
def test_numbers_are_read_as_far_as_they_go(text: str | None, number: int | None) -> None:
    assert lenient_int(text) == number


@pytest.mark.parametrize("text", ["1e999", "-1e999", '{"a":[1e999]}'])
def test_a_number_that_cannot_be_written_again_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="too large"):
        parse_json(text.encode())
