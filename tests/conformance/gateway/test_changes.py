"""`GET /v1/api/stream`: what may have changed, numbered, replayed after a break, bounded."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx2
import pytest
from tests.conformance.gateway.contract import CONTRACT, LIMITS, hold_frame
from tests.conformance.gateway.support import House, Json, bearer, sse_frames, tokens

from smithers.gateway import changes as changes_module
from smithers.gateway.changes import collections_of
from smithers.gateway.rest import stream as stream_module

PATH = "/v1/api/stream"


@pytest.fixture
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    grants = {"reader": ["run:read"], "other": ["run:read"], "cron": ["cron:read"]}
    with House(tmp_path_factory.mktemp("sse"), auth=tokens(grants)) as found:
        yield found


@contextmanager
def stream(house: House, query: str = "", **headers: str) -> Generator[Iterator[Json]]:
    with house.http.stream("GET", PATH + query, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache, no-transform"
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["x-smithers-api-version"] == "v1"
        yield checked(sse_frames(answer.iter_lines()))


def checked(frames: Iterator[Json]) -> Iterator[Json]:
    """Frames, each held to the contract."""
    for frame in frames:
        hold_frame(
            frame["data"], {"change": "sseChange", "reset": "sseReset", "heartbeat": "sseHeartbeat"}[frame["event"]]
        )
        if frame["event"] == "change":
            assert frame["id"] == str(frame["data"]["seq"])
            assert set(frame["data"]["collections"]) <= set(CONTRACT["collections"])
            assert frame["data"]["collections"] == sorted(set(frame["data"]["collections"]))
        else:
            assert "id" not in frame
        yield frame


def refused(house: House, query: str = "", **headers: str) -> tuple[int, str, Any]:
    answer = house.http.get(PATH + query, headers=headers)
    hold_frame(answer.json(), "restError")
    error = answer.json()["error"]
    return answer.status_code, error["code"], error.get("details")


def write(house: House, path: str = "t.md") -> int:
    """Change something; the number of the change."""
    return int(house.http.post("/v1/api/tickets", json={"path": path, "content": "x"}).json()["seq"])


def test_a_write_arrives_under_the_number_that_its_answer_told(house: House) -> None:
    with stream(house) as frames:
        assert next(frames)["event"] == "heartbeat"
        seq = write(house)
        change = next(f for f in frames if f["event"] == "change" and f["data"]["seq"] >= seq)
        assert change["data"] == {"seq": seq, "collections": ["docs", "tickets"]}


def test_without_a_cursor_nothing_is_replayed(house: House) -> None:
    seq = write(house)
    with stream(house) as frames:
        assert next(frames)["data"]["seq"] >= seq
        later = write(house)
        assert next(f for f in frames if f["event"] == "change")["data"]["seq"] == later


@pytest.mark.parametrize("by", ["header", "query"])
def test_what_was_missed_is_replayed_in_order(house: House, by: str) -> None:
    first = write(house)
    wanted = [write(house, f"{by}{i}.md") for i in range(3)]
    given: Json = {"last-event-id": str(first)} if by == "header" else {}
    with stream(house, "" if by == "header" else f"?lastEventId={first}", **given) as frames:
        changes = (f["data"]["seq"] for f in frames if f["event"] == "change")
        assert [next(changes) for _ in wanted] == wanted


def test_a_cursor_that_fell_out_or_never_was_is_told_to_begin_anew(
    guarded: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    seq = 0
    for _ in range(2):
        seq = write(guarded)
    feed = guarded.behind.services.changes

    async def change_often() -> None:
        for _ in range(LIMITS["sse"]["replayFrames"] + 1):
            feed.note("runs")
            await feed.settled()

    monkeypatch.setattr(changes_module, "MERGE_S", 0)
    guarded.run(change_often())
    for cursor in (1, seq, 10**9):
        with stream(guarded, **{"last-event-id": str(cursor)}) as frames:
            reset = next(f for f in frames if f["event"] != "heartbeat")
            assert reset == {"event": "reset", "data": {"seq": feed.seq}}
    with stream(guarded, **{"last-event-id": str(feed.seq - 1)}) as frames:
        assert next(f for f in frames if f["event"] != "heartbeat")["data"]["seq"] == feed.seq


def test_it_says_that_it_lives(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LIMITS["sse"]["heartbeatMs"] == stream_module.HEARTBEAT_S * 1000
    monkeypatch.setattr(stream_module, "HEARTBEAT_S", 0.02)
    with stream(house) as frames:
        assert [next(frames)["event"] for _ in range(3)] == ["heartbeat"] * 3


@pytest.mark.parametrize("cursor", ["-1", "x", "1.5", "0x1", "99999999999999999999"])
def test_a_cursor_that_is_none_is_refused(house: House, cursor: str) -> None:
    assert refused(house, **{"last-event-id": cursor})[:2] == (400, "INVALID_INPUT")
    assert refused(house, f"?lastEventId={cursor}")[:2] == (400, "INVALID_INPUT")


def test_it_needs_a_token_and_run_read(guarded: House) -> None:
    assert refused(guarded, **bearer("wrong"))[:2] == (401, "UNAUTHORIZED")
    assert refused(guarded, **bearer("cron"))[:2] == (403, "FORBIDDEN")


def test_streams_are_capped_by_client_and_by_user(guarded: House) -> None:
    limits = LIMITS["sse"]
    lines: list[Iterator[str]] = []  # kept, because a connection ends with whoever reads it
    without_limits = httpx2.Client(base_url=guarded.url, limits=httpx2.Limits(max_connections=None))
    with ExitStack() as open_streams, without_limits as client:

        def opened(token: str, client_id: str) -> Any:
            headers = {**bearer(token), "x-request-id": client_id}
            return open_streams.enter_context(client.stream("GET", PATH, headers=headers))

        for number in range(limits["user"]):
            answer = opened("reader", f"c{number // limits['connection']}")
            assert answer.status_code == 200
            lines.append(answer.iter_lines())
            next(lines[-1])
        for token, client_id, scope in (("reader", "new", "user"), ("other", "c0", "connection")):
            answer = opened(token, client_id)
            answer.read()
            assert answer.status_code == 429
            assert answer.json()["error"]["code"] == "RateLimited"
            assert answer.json()["error"]["details"] == {"scope": scope, "limit": limits[scope]}
        assert opened("other", "new").status_code == 200


def test_it_ends_when_the_grant_does(guarded: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "HEARTBEAT_S", 0.02)
    auth = guarded.gateway.options.auth
    with stream(guarded, **bearer("reader")) as frames:
        next(frames)
        guarded.do(lambda: auth.revoke("reader"))  # type: ignore[union-attr]
        assert all(frame["event"] == "heartbeat" for frame in frames)  # and then it is over


def test_a_runs_life_is_told_to_the_collections_that_hold_it(house: House) -> None:
    with stream(house) as frames:
        next(frames)
        seen: set[str] = set()
        house.start("gated", until="waiting-approval")
        for frame in frames:
            seen |= set(frame["data"].get("collections", ()))
            if {"runs", "run_events", "nodes", "approvals"} <= seen:
                break


@pytest.mark.parametrize(
    ("event", "collections"),
    [
        ("approval.requested", {"approvals", "runs", "run_events", "nodes"}),
        ("node.started", {"run_events", "nodes"}),
        ("task.output", {"run_events", "nodes", "node_outputs"}),
        ("agent.event", {"run_events", "nodes"}),
        ("run.completed", {"runs", "run_events", "nodes"}),
        ("cron.triggered", {"crons", "runs"}),
        ("token.usage", {"runs", "run_events"}),
    ],
)
def test_every_pushed_event_names_its_collections(event: str, collections: set[str]) -> None:
    assert set(collections_of(event)) >= collections
