"""Redaction: a secret in any telling position never comes out, what is harmless does, and the cost is bounded."""

from __future__ import annotations

import json
import string
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smithers.observability.redaction import MASK, MAX_TEXT, is_telling, redact, scrub, scrub_address, scrub_value
from smithers.settings import environment_secrets

# letters that no mask and no telling name is made of, so that finding the secret means finding the secret
ALPHABET = "QZXJ0123456789qzxj"
secrets = st.text(ALPHABET, min_size=12, max_size=60)
odd_secrets = st.tuples(secrets, st.text("/+=~!@#$%^*?:|.-_", max_size=6), secrets).map("".join)
noise = st.text(string.ascii_letters + " .:=\n\"'{}[]", max_size=40)
names = st.sampled_from(
    ["password", "api_key", "apiKey", "X-Api-Key", "access_token", "clientSecret", "OPENAI_API_KEY", "refreshToken"]
)

POSITIONS: list[Callable[[str, str], str]] = [
    lambda name, secret: f"{name}={secret}",
    lambda name, secret: f"{name}: {secret}",
    lambda name, secret: json.dumps({"a": 1, name: secret}),
    lambda name, secret: json.dumps(json.dumps({name: secret})),
    lambda name, secret: repr({name: secret}),
    lambda name, secret: f"https://host/path?x=1&{name}={quote(secret, safe='')}&y=2",
    lambda name, secret: f"--{name} {secret}",
    lambda name, secret: f"Authorization: Bearer {secret}",
    lambda name, secret: f"authorization: Basic {secret}",
    lambda name, secret: f"sent bearer {secret}",
    lambda name, secret: f'Cookie: a="b"; session={secret}',
    lambda name, secret: f"Set-Cookie: id={secret}; Path=/",
    lambda name, secret: json.dumps({"headers": {"Authorization": f"Bearer {secret}"}}),
    lambda name, secret: f"postgres://user:{quote(secret, safe='')}@host/db",
    lambda name, secret: f"https://{quote(secret, safe='')}@host/",
    lambda name, secret: f"-----BEGIN RSA PRIVATE KEY-----\n{secret}\n-----END RSA PRIVATE KEY-----",
]
SHAPES = ["sk-{}", "sk-ant-api03-{}", "pk_live_{}", "ghp_{}", "github_pat_{}", "xoxb-{}", "glpat-{}", "whsec_{}"]


@given(st.sampled_from(POSITIONS), names, odd_secrets, noise, noise)
def test_a_secret_in_a_telling_position_never_comes_out(
    position: Callable[[str, str], str], name: str, secret: str, before: str, after: str
) -> None:
    text = f"{before}\n{position(name, secret)}\n{after}"

    found = redact(text)

    assert secret[:12] not in found
    assert secret[-12:] not in found
    assert MASK in found


@given(st.sampled_from(SHAPES), secrets, noise, noise)
def test_what_looks_like_a_providers_key_never_comes_out(shape: str, secret: str, before: str, after: str) -> None:
    assert secret not in redact(f"{before} {shape.format(secret)} {after}")


@given(names, st.one_of(odd_secrets, st.integers(10**11, 10**15)), noise)
def test_a_value_under_a_telling_name_never_comes_out(name: str, secret: object, other: str) -> None:
    value = {"outer": [{name: secret, "other": other}, {name: {"inner": [secret]}}], "n": 1}
    assert str(secret) not in json.dumps(scrub_value(value))


@given(
    st.sampled_from(["SMITHERS_API_KEY", "MY_TOKEN", "DB_PASSWORD", "APP_SECRET", "SENTRY_DSN"]), secrets, noise, noise
)
def test_the_values_of_secret_variables_never_come_out(name: str, secret: str, before: str, after: str) -> None:
    assert environment_secrets({name: secret, "HOME": "/somewhere", "SSH_AUTH_SOCK": "/tmp/socket.1"}) == (secret,)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, secret)
        assert secret not in scrub(f"{before}{secret}{after}")
        assert secret not in json.dumps(scrub_value([{"message": before + secret + after}]))


@given(secrets)
def test_redacting_twice_changes_nothing_more(secret: str) -> None:
    once = redact(f"token={secret} and Authorization: Bearer {secret}")
    assert redact(once) == once


@pytest.mark.parametrize(
    "text",
    [
        "node 'scan:a.py' took longer than 30000 ms",
        "inputTokens: 5, max_tokens=100, tokenizer=cl100k",
        "https://example.org/path?page=2 answered 404",
        "result does not fit Output('finding'): file: Field required",
        "a task-list with risk-assessment entries",
    ],
)
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_names_that_count_or_identify_are_not_secrets() -> None:
    assert not any(is_telling(n) for n in ("inputTokens", "max_tokens", "access_key_id", "depKey", "author", "code"))
    assert all(is_telling(n) for n in ("Authorization", "x-smithers-key", "auth", "privateKey", "session_token"))


@pytest.mark.parametrize(
    "piece", ["-", "a", "token", "-token", "eyJaaaaaaaa-", "://", "://a@", '"', "\\", "sk-", "=", "bearer "]
)
def test_text_without_end_is_cut_and_cheap(piece: str) -> None:
    text = piece * (5_000_000 // len(piece))
    began = time.process_time()
    found = scrub(text)
    assert len(found) < MAX_TEXT + 100
    assert time.process_time() - began < 2


def test_a_secret_that_the_cut_goes_through_does_not_come_out() -> None:
    for offset in range(0, 40, 5):
        text = "x" * (MAX_TEXT - offset) + " api_key=" + "Q7" * 20 + " " + "y" * 20_000
        assert "Q7Q7" not in scrub(text)


def test_deep_and_odd_values_are_harmless() -> None:
    deep: list[object] = []
    for _ in range(100):
        deep = [deep]
    assert scrub_value({"deep": deep, "b": b"x", "ok": True, "password": None, 1: 2.5})


@pytest.mark.parametrize("name", ["token", "access_token", "api_key", "key", "auth", "jwt", "to%6Ben", "%61pi%5Fkey"])
def test_no_credential_is_left_in_an_address_however_it_is_encoded(name: str) -> None:
    secret = "Q7ZX+J%2Fq9"
    shown = scrub_address(f"/v1/rpc?a=b%20c&{name}={secret}&limit=5")
    assert shown == f"/v1/rpc?a=b%20c&{name}={MASK}&limit=5"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("/", "/"),
        ("/v1/runs/a%2Fb?", "/v1/runs/a%2Fb?"),
        ("/x?note=a%26b&flag&empty=", "/x?note=a%26b&flag&empty="),
        ("/x?token=", "/x?token="),
        ("/x?Bearer%20Q7ZXJq9Q7ZX", f"/x?Bearer%20{MASK}"),
        ("/x?to=https%3A%2F%2Fann%3AQ7ZX%40host%0Anext", f"/x?to=https://{MASK}@host%0Anext"),
        ("/files/sk%2DQ7ZXJq9Q7ZX", f"/files/{MASK}"),
    ],
)
def test_what_is_harmless_in_an_address_stays_as_it_was(address: str, shown: str) -> None:
    assert scrub_address(address) == shown
