"""A token that is taken away, or whose time is over, loses what it holds open at once, not at the next tick."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conformance.gateway.support import PATIENCE_S, ROOT, House, bearer

from smithers.gateway.auth.config import TokenAuth

ALL = {"role": "operator", "scopes": ["*"]}


def _in_a_moment() -> int:
    return int(time.time() * 1000) + 300


TAKEN_AWAY: dict[str, Callable[[TokenAuth], object]] = {
    "revoked": lambda auth: auth.revoke("t"),
    "revoked in a moment": lambda auth: auth.revoke("t", at_ms=_in_a_moment()),
    "given a shorter term": lambda auth: auth.grant("t", {**ALL, "expiresAtMs": _in_a_moment()}),
    "given less": lambda auth: auth.grant("t", {**ALL, "scopes": ["run:read"]}),
    "forgotten": lambda auth: auth.load({}),
}


@pytest.mark.parametrize("how", TAKEN_AWAY)
def test_a_token_that_is_taken_away_loses_its_sockets_and_streams_at_once(tmp_path: Path, how: str) -> None:
    auth = TokenAuth({ROOT: ALL})
    if how == "forgotten":
        from smithers.gateway.auth.tokens import TokenGrant, digest_of

        auth.load({digest_of(b"t"): TokenGrant("operator", ("*",))})
    else:
        auth.grant("t", ALL)
    with (
        House(tmp_path, auth=auth, heartbeat_ms=3_600_000) as house,
        house.socket("t") as socket,
        house.socket() as other,
        house.http.stream("GET", "/v1/api/stream", headers=bearer("t")) as stream,
    ):
        lines = stream.iter_lines()
        assert next(lines) == ": heartbeat"
        began = time.monotonic()
        TAKEN_AWAY[how](auth)  # from a thread that is not the gateway's
        assert socket.until_closed() == 1008
        list(lines)  # to its end
        assert time.monotonic() - began < min(PATIENCE_S, 10.0)  # the stream's own heartbeat would take 15 s
        assert other.call("health").payload["uptimeMs"] >= 0
