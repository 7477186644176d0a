"""Run streams: replay, live, resume, gaps, ends, caps and slow readers. What is stored arrives once and in order."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from tests.integration.gateway.socket_support import Client, FakeRun, Frame, MiniGateway, mini_gateway
from websockets.exceptions import ConnectionClosed

from smithers.control.hosting import Place
from smithers.events import EventRow
from smithers.gateway.auth.identity import Identity
from smithers.gateway.streams import run_streams
from smithers.gateway.streams.mapping import event_name
from smithers.gateway.ws import connection as connections
from smithers.store.sql import reads

STREAM_FRAMES = ("run.event", "run.gap_resync", "run.error")


@pytest.fixture(autouse=True)
def no_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is."""
    monkeypatch.setattr(run_streams, "HEARTBEAT_S", 3600)


def expected(place: Place, run_id: str, after: int = 0) -> list[tuple[int, str]]:
    """What a stream has to tell after a number: (number, event)."""
    rows: list[EventRow] = place.store.read(lambda c: reads.events(c, run_id, after - 1, 1_000_000))
    return [(row.seq + 1, name) for row in rows if (name := event_name(row)) is not None]


def seen(frame: Frame) -> tuple[int, str]:
    return frame["payload"]["seq"], frame["payload"]["event"]


async def until_completed(client: Client) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    while True:
        frame = await client.event("run.event")
        found.append(seen(frame))
        if frame["payload"]["event"] == "run.completed":
            return found


async def opened(client: Client, run_id: str, after: int | None = None) -> dict[str, Any]:
    params = {"runId": run_id} if after is None else {"runId": run_id, "afterSeq": after}
    answer = await client.call("streamRunEvents", params)
    assert answer["ok"], answer
    return cast("dict[str, Any]", answer["payload"])


# ── replay and live ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_stream_replays_from_the_start_then_goes_on_and_ends_with_completion(tmp_path: Path) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway, gateway.client() as client:
            run = FakeRun(gateway.place, "run")
            await run.launch()
            await run.emit(450)
            payload = await opened(client, "run", 0)
            assert (payload["afterSeq"], payload["currentSeq"]) == (0, 452)
            await run.emit(3)
            await run.decide()
            await run.finish()
            assert await until_completed(client) == expected(gateway.place, "run")

    asyncio.run(use())


def test_the_answer_comes_before_the_first_frame(tmp_path: Path) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway, gateway.client(subscribe=["x"]) as client:
            run = FakeRun(gateway.place, "run")
            await run.launch()
            await run.emit(20)
            await client.event("connect.challenge")
            request_id = await client.send("streamRunEvents", {"runId": "run", "afterSeq": 0})
            first = await client.read()
            assert (first["type"], first["id"]) == ("res", request_id)
            assert [(await client.event())["event"] for _ in range(3)] == ["run.event"] * 3

    asyncio.run(use())


def test_without_a_number_only_what_happens_from_now_on_is_told(tmp_path: Path) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway, gateway.client() as client:
            run = FakeRun(gateway.place, "run")
            await run.launch()
            await run.emit(5)
            payload = await opened(client, "run")
            assert (payload["afterSeq"], payload["currentSeq"]) == (None, 7)
            await run.emit()
            assert seen(await client.event("run.event")) == (8, "node.started")

    asyncio.run(use())


def test_who_has_a_stream_gets_its_events_through_it_only(tmp_path: Path) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway, gateway.client() as client, gateway.client() as other:
            run = FakeRun(gateway.place, "run")
            await run.launch()
            await client.event("connect.challenge")
            await client.event()
            ids = {(await opened(client, "run"))["streamId"], (await opened(client, "run"))["streamId"]}
            await run.emit()
            for tell, name in ((client, "run.event"), (client, "run.event"), (other, "node.started")):
                await tell.event(name)  # both streams have caught up with this, and live events follow
            await run.emit()
            frames = [await client.event(), await client.event()]
            assert [f["event"] for f in frames] == ["run.event", "run.event"]
            assert {f["payload"]["streamId"] for f in frames} == ids
            assert {f["stateVersion"] for f in frames} == {frames[0]["payload"]["stateVersion"]}
            assert (await other.event("node.started"))["stateVersion"] == frames[0]["stateVersion"]
            for stream_id in ids:
                answer = await client.call("unsubscribe", {"streamId": stream_id})
                assert answer["payload"] == {"streamId": stream_id, "closed": True}
            assert (await client.call("unsubscribe", {"streamId": "x"}))["payload"] == {
                "streamId": "x",
                "closed": False,
            }
            await run.emit()
            assert (await client.event())["event"] == "node.started"
            assert gateway.streams.count == 0

    asyncio.run(use())


def test_a_stream_on_a_run_that_was_not_listed_tells_it(tmp_path: Path) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway, gateway.client(subscribe=["other"]) as client:
            run = FakeRun(gateway.place, "run")
            await run.launch()
            await opened(client, "run")
            await run.emit()
            assert seen(await client.event("run.event")) == (3, "node.started")

    asyncio.run(use())


def test_a_heartbeat_comes_each_second_first_after_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_streams, "HEARTBEAT_S", 0.05)

    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway, gateway.client() as client:
            await FakeRun(gateway.place, "run").launch()
            payload = await opened(client, "run")
            beats = [await client.event("run.heartbeat") for _ in range(3)]
            assert {b["payload"]["streamId"] for b in beats} == {payload["streamId"]}

    asyncio.run(use())


# ── cursors ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({}, "InvalidRunId"),
        ({"runId": ""}, "InvalidRunId"),
        ({"runId": 7}, "InvalidRunId"),
        ({"runId": "run", "afterSeq": -1}, "SeqOutOfRange"),
        ({"runId": "run", "afterSeq": 1.5}, "SeqOutOfRange"),
        ({"runId": "run", "afterSeq": 3}, "SeqOutOfRange"),
        ({"runId": "nobody"}, "RunNotFound"),
    ],
)
def test_a_subscription_that_does_not_fit_says_why(tmp_path: Path, params: dict[str, object], code: str) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway, gateway.client() as client:
            await FakeRun(gateway.place, "run").launch()
            assert (await client.call("streamRunEvents", params))["error"]["code"] == code
            assert (await opened(client, "run", 2))["currentSeq"] == 2

    asyncio.run(use())


def test_what_lies_before_the_window_is_replaced_by_the_run_s_record(tmp_path: Path) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db", window=10) as gateway, gateway.client() as client:
            run = FakeRun(gateway.place, "run")
            await run.launch()
            await run.emit(48)
            await opened(client, "run", 5)
            gap = (await client.event(*STREAM_FRAMES))["payload"]
            assert (gap["fromSeq"], gap["toSeq"], gap["snapshot"]["status"]) == (6, 40, "running")
            await run.finish()
            assert await until_completed(client) == expected(gateway.place, "run", 40)

    asyncio.run(use())


@pytest.mark.parametrize("after", [None, 4, 5])
def test_a_stream_on_a_run_that_has_ended_says_so_wherever_it_begins(tmp_path: Path, after: int | None) -> None:
    """Its `run.completed` is number 4; 5 is the newest stored event."""

    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway, gateway.client() as client:
            run = FakeRun(gateway.place, "run")
            await run.launch()
            await run.emit()
            await run.finish()
            assert (await opened(client, "run", after))["currentSeq"] == 5
            gap = await client.event(*STREAM_FRAMES)
            assert (gap["event"], gap["payload"]["snapshot"]["status"]) == ("run.gap_resync", "finished")
            assert seen(await client.event(*STREAM_FRAMES)) == (4, "run.completed")
            # a later start of the run is told on the same stream
            await run.reopen()
            await run.emit()
            await run.finish()
            assert await until_completed(client) == expected(gateway.place, "run", 5)

    asyncio.run(use())


def test_a_run_that_ends_while_it_is_subscribed_to_is_completed_once(tmp_path: Path) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway, gateway.client() as client:
            for number in range(20):
                run = FakeRun(gateway.place, f"run-{number}")
                await run.launch()
                asking = await client.send("streamRunEvents", {"runId": run.run_id})
                await run.finish()
                stream_id = (await client.response(asking))["payload"]["streamId"]
                assert (await client.event("run.event"))["payload"]["event"] == "run.completed"
                await gateway.feed.settle()
                await client.call("unsubscribe", {"streamId": stream_id})
                assert [f for f in client.frames if f["event"] == "run.event"] == []

    asyncio.run(use())


# ── caps and slow readers ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("scope", "limit"), [("connection", 8), ("user", 32), ("run", 64), ("global", 256)])
def test_streams_are_capped(tmp_path: Path, scope: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_streams.CAPS[scope] == limit
    caps = {name: 3 if name == scope else 100 for name in run_streams.CAPS}
    monkeypatch.setattr(run_streams, "CAPS", caps)

    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway, gateway.client() as one:
            gateway.tokens.known["other"] = Identity(user_id="other")
            async with gateway.client(token="other") as two:
                for run_id in ("a", "b"):
                    await FakeRun(gateway.place, run_id).launch()
                opener = {"connection": [one] * 3, "user": [one] * 3, "run": [one, two, one], "global": [one, two, two]}
                for client in opener[scope]:
                    await opened(client, "a")
                error = (await one.call("streamRunEvents", {"runId": "a"}))["error"]
                assert (error["code"], error["scope"], error["limit"]) == ("RateLimited", scope, 3)
                if scope in ("connection", "user"):
                    await opened(two, "a")
                elif scope == "run":
                    await opened(one, "b")
        assert gateway.streams.count == 0

    asyncio.run(use())


def test_a_connection_that_does_not_read_loses_its_stream_and_may_resume_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_streams, "MAX_MISSED", 50)
    is_reading = True

    def pending(_connection: connections.Connection) -> int:
        return 0 if is_reading else run_streams.HIGH_WATER + 1

    monkeypatch.setattr(connections.Connection, "pending_bytes", property(pending))

    async def use() -> None:
        nonlocal is_reading
        async with mini_gateway(tmp_path / "s.db") as gateway, gateway.client() as client:
            run = FakeRun(gateway.place, "run")
            await run.launch()
            await opened(client, "run", 2)
            await run.emit()
            assert seen(await client.event("run.event")) == (3, "node.started")
            is_reading = False
            await run.emit(20)  # it catches up with these
            is_reading = True
            await run.emit(10)
            assert [seen(await client.event("run.event"))[0] for _ in range(30)] == list(range(4, 34))
            is_reading = False
            await run.emit(60)
            error = (await client.event("run.event", "run.error"))["payload"]
            assert error["error"]["code"] == "BackpressureDisconnect"
            is_reading = True
            await opened(client, "run", 33)
            await run.finish()
            assert await until_completed(client) == expected(gateway.place, "run", 33)

    asyncio.run(use())


# ── loss and order ─────────────────────────────────────────────────────────────────────────────────────────────────


class Follower:
    """A client of one run that is cut off at random moments and goes on after the last number that it has."""

    def __init__(self, gateway: MiniGateway, run_id: str, seed: int) -> None:
        self.gateway = gateway
        self.run_id = run_id
        self.got: list[tuple[int, str]] = []
        self.cuts = 0
        self._random = random.Random(seed)

    async def follow(self) -> None:
        while not (self.got and self.got[-1][1] == "run.completed"):
            try:
                await self._once()
            except (OSError, ConnectionClosed, TimeoutError):
                self.cuts += 1
                await asyncio.sleep(0.01)

    async def _once(self) -> None:
        lasts = self._random.randint(1, 120)
        async with self.gateway.client(subscribe=["nothing"]) as client:
            await opened(client, self.run_id, self.got[-1][0] if self.got else 0)
            for _ in range(lasts):
                frame = await client.event(*STREAM_FRAMES)
                assert frame["event"] == "run.event", frame
                self.got.append(seen(frame))
                if self.got[-1][1] == "run.completed":
                    return
            if self._random.random() < 0.5:
                client.socket.transport.abort()
            self.cuts += 1


@pytest.mark.parametrize("seed", range(3))
def test_clients_that_come_and_go_all_end_with_the_exact_sequence(tmp_path: Path, seed: int) -> None:
    async def use() -> None:
        choose = random.Random(seed)
        async with mini_gateway(tmp_path / "s.db", poll_s=0.1) as gateway:
            runs = [FakeRun(gateway.place, f"run-{n}") for n in range(2)]
            for run in runs:
                await run.launch()
            followers = [Follower(gateway, run.run_id, seed * 10 + n) for run in runs for n in range(3)]
            following = [asyncio.create_task(f.follow()) for f in followers]
            for _ in range(150):
                run = choose.choice(runs)
                what = choose.random()
                if what < 0.5:
                    await run.emit(choose.randint(1, 6))
                elif what < 0.7:
                    await run.emit(choose.randint(1, 6), is_here=False)
                elif what < 0.9:
                    await run.decide(is_here=choose.random() < 0.5)
                else:
                    await asyncio.sleep(0.005)
            for run in runs:
                await run.finish()
            async with asyncio.timeout(60):
                await asyncio.gather(*following)
            for follower in followers:
                assert follower.got == expected(gateway.place, follower.run_id)
            assert sum(f.cuts for f in followers) > 6

    asyncio.run(use())


CHILD = """
import asyncio, sys
from pathlib import Path
from tests.integration.gateway.socket_support import FakeRun
from smithers.control.control import Control
from smithers.control.hosting import Place
from smithers.control.streams import StreamHub
from smithers.engine.engine import Engine
from smithers.store import open_store

async def main(path):
    store = open_store(path, durability="normal")
    engine = Engine(store)
    hub = StreamHub(store)
    run = FakeRun(Place(path, store, engine, hub, Control(store, hub=hub)), "run")
    await run.launch()
    print("launched", flush=True)
    for _ in range(60):
        await run.emit(7)
        await asyncio.sleep(0.01)
    await run.finish()
    store.close()

asyncio.run(main(sys.argv[1]))
"""


def test_a_run_of_another_process_is_followed_across_a_restart_of_the_gateway(tmp_path: Path) -> None:
    path = tmp_path / "s.db"

    async def use() -> None:
        async with mini_gateway(path, poll_s=0.1) as gateway, gateway.client() as plain:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", CHILD, str(path), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[3]
            )
            assert child.stdout is not None
            assert (await child.stdout.readline()).strip() == b"launched"
            followers = [Follower(gateway, "run", n) for n in range(3)]
            following = [asyncio.create_task(f.follow()) for f in followers]
            told = [(await plain.event("node.started"))["payload"]["nodeId"] for _ in range(100)]
            assert told == [f"n{n}" for n in range(100)]
            await gateway.until(lambda: all(len(f.got) > 50 for f in followers))
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
        async with mini_gateway(path, poll_s=0.1) as second:
            for follower in followers:
                follower.gateway = second
            async with asyncio.timeout(60):
                await asyncio.gather(*(f.follow() for f in followers))
            assert await child.wait() == 0
            wanted = expected(second.place, "run")
            assert len(wanted) == 60 * 7 + 2
            assert [f.got for f in followers] == [wanted] * 3

    asyncio.run(use())


def test_frames_of_a_stream_are_json_whatever_they_carry(tmp_path: Path) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway, gateway.client() as client:
            run = FakeRun(gateway.place, 'r"un\\é')
            await run.launch()
            text = 'é"\\\u2028' * 3_000
            await run.output(json.dumps({"attempt": 1, "text": text, "stream": "stdout"}, separators=(",", ":")))
            await opened(client, run.run_id, 0)
            frames = [await client.event("run.event"), await client.event("run.event")]
            assert frames[0]["payload"]["event"] == "run.status_changed"
            assert frames[1]["payload"]["payload"]["output"] == text

    asyncio.run(use())
