"""What an operator counts on: whoever is refused, comes, goes and ends is in the metrics."""

from __future__ import annotations

from pathlib import Path

from tests.conformance.gateway.support import ROOT, House, bearer

from smithers.gateway.auth.config import TokenAuth


def counted(house: House, name: str) -> dict[str, float]:
    """A counter's values by their labels."""
    text = house.http.get("/metrics").text
    lines = [line.removeprefix(f"smithers_gateway_{name}") for line in text.splitlines()]
    found = [line.rpartition(" ") for line, whole in zip(lines, text.splitlines(), strict=True) if line != whole]
    return {labels.strip("{}"): float(value) for labels, _, value in found if float(value)}


def test_who_shows_no_good_token_is_counted(tmp_path: Path) -> None:
    with House(tmp_path, auth=TokenAuth({ROOT: {"role": "operator", "scopes": ["*"]}})) as house:
        assert house.http.post("/v1/rpc/listRuns", json={}, headers=bearer("guess")).status_code == 401
        assert house.http.get("/v1/api/runs", headers=bearer("guess")).status_code == 401
        assert house.http.get("/v1/auth/session?token=guess").status_code == 401
        assert counted(house, "auth_events_total") == {'outcome="unauthorized",transport="http"': 3}


def test_connections_and_their_frames_are_counted(tmp_path: Path) -> None:
    auth = TokenAuth({ROOT: {"role": "operator", "scopes": ["*"]}, "t": {"role": "operator", "scopes": ["*"]}})
    with House(tmp_path, auth=auth) as house, house.socket() as socket, house.socket("t") as other:
        auth.revoke("t")
        assert other.until_closed() == 1008
        socket.call("health")
        assert counted(house, "connections_total") == {'transport="websocket"': 2}
        closed = counted(house, "connections_closed_total")
        assert closed == {'code="1008",reason="authentication failed",transport="websocket"': 1}
        received = counted(house, "messages_received_total")
        assert received == {'kind="frame",transport="websocket"': 3}
        assert counted(house, "messages_received_total") == received  # looking counts nothing
        assert counted(house, "messages_sent_total")['kind="frame",transport="websocket"'] >= 5
