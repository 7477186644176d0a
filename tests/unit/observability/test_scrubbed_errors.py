"""Errors as they are stored and answered hold no credentials, wherever these stood."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smithers.asgi.problems import problem
from smithers.errors import InvalidInput, SmithersError, error_object

SHAPES = ["api_key=%s", "Authorization: Bearer %s", '{"token": "%s"}', "redis://:%s@host", "sk-%s"]
secrets = st.text("QZXqzx0123456789", min_size=12, max_size=40)


@given(st.sampled_from(SHAPES), secrets, st.booleans())
def test_what_is_stored_of_an_error_holds_no_credentials(shape: str, secret: str, is_ours: bool) -> None:
    text = shape % secret
    try:
        try:
            raise RuntimeError(text)
        except RuntimeError as cause:
            error = InvalidInput(text, {"headers": {"cookie": secret}, "value": text}) if is_ours else ValueError(text)
            raise error from cause
    except Exception as error:
        found = error_object(error)
    assert secret not in json.dumps(found)
    assert found["name"] == ("InvalidInput" if is_ours else "ValueError")


@given(st.sampled_from(SHAPES), secrets)
def test_what_is_answered_holds_no_credentials(shape: str, secret: str) -> None:
    text = shape % secret
    for error in (InvalidInput(text, {"password": secret, "given": [text]}), SmithersError(text), ValueError(text)):
        assert secret not in json.dumps(problem(error)[1])


def test_values_of_the_environment_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMITHERS_API_KEY", "correct horse battery staple")
    found = error_object(ValueError("sent 'correct horse battery staple'"))
    assert found["message"] == "sent '[redacted]'"
