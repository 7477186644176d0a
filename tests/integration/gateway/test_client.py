"""GatewayClient against a real gateway, over HTTP, WebSocket and Unix sockets: calls, refusals, streams that resume."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import cast, get_type_hints

import pytest
from tests.integration.gateway.client_support import (
    Scripted,
    cable,
    hang_up,
    make_gateway,
    scripted_gateway,
)
from tests.unit.client.test_methods import METHODS, python_name, sample

from smithers.client import GatewayClient, GatewayConnectionLost, GatewayError, RunEvent, sockets
from smithers.client.frames import Backoff, Opened, opened_of
from smithers.errors import InvalidInput

TOKENS = {
    "mode": "token",
    "tokens": {
        "op-secret-token": {"role": "operator", "scopes": ["*"]},
        "reader-token": {"role": "viewer", "scopes": ["run:read"]},
        "old-token": {"role": "operator", "scopes": ["*"], "revokedAtMs": 1},
    },
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect again after a moment."""

    def take(self: Backoff) -> float:
        return 0.01

    monkeypatch.setattr(Backoff, "take", take)


def real(folder: Path, use: Callable[[GatewayClient], Awaitable[None]], **options: object) -> None:
    """Do something with a client of a gateway."""

    async def main() -> None:
        async with make_gateway(folder, **options) as gateway:
            server = await gateway.listen(port=0, host="127.0.0.1")
            async with GatewayClient(server.url) as client:
                await use(client)

    asyncio.run(main())


def scripted(talk: Callable[[Scripted], Awaitable[None]], use: Callable[[GatewayClient], Awaitable[None]]) -> None:
    """Do something with a client of a gateway that says what the test wants."""

    async def main() -> None:
        async with scripted_gateway(talk) as url, GatewayClient(url) as client:
            await use(client)

    asyncio.run(main())


def told(events: list[RunEvent]) -> list[int]:
    return [event.seq for event in events]


# ── calls ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_method_is_understood_by_the_gateway(tmp_path: Path) -> None:
    async def use(client: GatewayClient) -> None:
        refused: dict[str, dict[str, object]] = {}
        for method in METHODS:
            ask = getattr(client, python_name(method.name))
            hints = get_type_hints(ask)
            required = [p.name for p in inspect.signature(ask).parameters.values() if p.default is p.empty]
            try:
                await ask(**{name: sample(hints[name]) for name in required})
            except GatewayError as error:
                if error.error_code not in {*method.errors, "NotAvailable"}:
                    refused[method.name] = error.body
        assert refused == {}

    real(tmp_path, use)


def test_a_run_lives_its_whole_life_through_typed_calls(tmp_path: Path) -> None:
    async def use(client: GatewayClient) -> None:
        started = await client.launch_run("gated", run_id="r", idempotency_key="k")
        assert started == {"runId": "r", "workflow": "gated", "system": False}
        async for event in client.stream_run_events("r"):
            if event.event == "approval.requested":
                break
        assert [row["nodeId"] for row in await client.list_approvals()] == ["ship"]
        await client.submit_approval("r", "ship", approved=True)
        assert (await client.wait_for_run("r"))["status"] == "finished"
        assert [run["runId"] for run in await client.list_runs(status="finished")] == ["r"]
        output = await client.get_node_output("r", "b")
        assert cast("dict[str, object]", output["row"])["text"] == "done"

    real(tmp_path, use)


def test_a_signal_that_is_sent_again_with_its_key_is_the_same_one(tmp_path: Path) -> None:
    async def use(client: GatewayClient) -> None:
        await client.launch_run("long", run_id="r")
        first = await client.submit_signal("r", signal_name="go", payload={"on": True}, idempotency_key="k")
        assert await client.submit_signal("r", signal_name="go", payload={"on": True}, idempotency_key="k") == first
        for payload, key in (({"on": False}, "k"), ({"on": True}, ""), ({"on": True}, "k" * 257)):
            with pytest.raises(GatewayError) as refused:
                await client.submit_signal("r", signal_name="go", payload=payload, idempotency_key=key)
            assert refused.value.http_status == 400
        assert (await client.wait_for_run("r"))["status"] == "finished"
        assert await client.submit_signal("r", signal_name="go", payload={"on": True}, idempotency_key="k") == first

    real(tmp_path, use)


def test_a_refusal_keeps_code_status_and_everything_else(tmp_path: Path) -> None:
    async def use(client: GatewayClient) -> None:
        with pytest.raises(GatewayError) as unknown:
            await client.get_run("nope")
        assert (unknown.value.error_code, unknown.value.http_status) == ("NOT_FOUND", 404)
        await client.launch_run("gated", run_id="r")
        async for event in client.stream_run_events("r"):
            if event.event == "approval.requested":
                break
        await client.submit_approval("r", "ship", approved=True)
        with pytest.raises(GatewayError) as twice:
            await client.submit_approval("r", "ship", approved=False)
        assert twice.value.http_status == 409
        assert twice.value.body["nodeId"] == "ship"
        assert twice.value.details["status"] == "approved"
        async with client.socket() as socket:
            with pytest.raises(GatewayError) as pushed:
                await socket.call("getRun", {"runId": "nope"})
            assert (pushed.value.error_code, pushed.value.http_status) == ("NOT_FOUND", None)

    real(tmp_path, use)


def test_tokens_decide_what_is_answered(tmp_path: Path) -> None:
    async def use(client: GatewayClient) -> None:
        assert (await client.health())["ok"] is True
        for token, status, code in ((None, 401, "UNAUTHORIZED"), ("old-token", 401, "UNAUTHORIZED")):
            async with GatewayClient(client.url, token=token) as other:
                with pytest.raises(GatewayError) as refused:
                    await other.list_runs()
                assert (refused.value.http_status, refused.value.error_code) == (status, code)
                with pytest.raises(GatewayError):
                    await anext(other.stream_run_events("r"))
        async with GatewayClient(client.url, token="reader-token") as reader:
            assert await reader.list_runs() == []
            with pytest.raises(GatewayError) as scoped:
                await reader.launch_run("one")
            assert (scoped.value.http_status, scoped.value.required_scope) == (403, "run:write")

    real(tmp_path, use, auth=TOKENS)


def test_the_token_is_in_no_log_no_text_and_no_address(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def use(client: GatewayClient) -> None:
        async with GatewayClient(client.url, token="op-secret-token") as other:
            await other.launch_run("one", run_id="r")
            await other.wait_for_run("r")
            shown = f"{other!r} {other.url} {vars(other)['_address']!r}"
            assert "op-secret-token" not in shown

    caplog.set_level(logging.DEBUG)
    real(tmp_path, use, auth=TOKENS)
    ours = [r for r in caplog.records if r.name.split(".")[0] in ("smithers", "websockets", "httpx2", "httpcore2")]
    assert {r.name.split(".")[0] for r in ours} >= {"smithers", "httpcore2"}
    assert "op-secret-token" not in "".join(r.getMessage() for r in ours)


def test_extensions_are_called_by_name_whatever_their_parameters_are_called(tmp_path: Path) -> None:
    async def use(client: GatewayClient) -> None:
        params = {"method": "sale", "params": {"n": 1}, "id": 7}
        assert await client.call("ext.shop.echo", params) == {"params": params, "kind": "resource"}
        with pytest.raises(GatewayError) as failed:
            await client.call("ext.shop.fail")
        assert (failed.value.error_code, failed.value.summary) == ("EXTENSION_HANDLER_ERROR", "sold out")
        with pytest.raises(GatewayError, match="Unknown method"):
            await client.call("ext.shop.nothing")

    real(tmp_path, use)


@pytest.mark.parametrize("method", ["", "../health", "a/b", "x y", "é", "x" * 300])
def test_what_is_no_method_name_is_not_sent(method: str) -> None:
    async def use() -> None:
        async with GatewayClient("http://127.0.0.1:9") as client:
            with pytest.raises(InvalidInput):
                await client.call(method)

    asyncio.run(use())


def test_parameters_that_are_no_json_are_refused_here() -> None:
    async def use() -> None:
        async with GatewayClient("http://127.0.0.1:9") as client:
            with pytest.raises(InvalidInput, match="not JSON"):
                await client.launch_run("one", input={"x": object()})

    asyncio.run(use())


@pytest.mark.parametrize(
    ("url", "token"),
    [
        ("ftp://x", None),
        ("http://", None),
        ("localhost:1", None),
        ("http://u:pw-secret@x", None),
        ("http://x:99999", None),
        ("unix:", None),
        ("http://x", "two words"),
        ("http://x", "line\nbreak-secret"),
        ("http://x", ""),
    ],
)
def test_a_wrong_address_or_token_is_refused_without_repeating_secrets(url: str, token: str | None) -> None:
    with pytest.raises(InvalidInput) as refused:
        GatewayClient(url, token=token)
    assert "secret" not in str(refused.value)


def test_a_gateway_that_is_not_there_is_a_lost_connection() -> None:
    async def use() -> None:
        async with cable(None) as line, GatewayClient(line.url) as client:
            with pytest.raises(GatewayConnectionLost):
                await client.list_runs()
            with pytest.raises(GatewayConnectionLost):
                async with client.socket():
                    pass
            with pytest.raises(GatewayConnectionLost):
                await anext(client.stream_run_events("r", patience_s=0.05))

    asyncio.run(use())


def test_an_answer_that_never_comes_ends_with_the_time_given() -> None:
    hanging: list[asyncio.StreamWriter] = []

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hanging.append(writer)
        await reader.read()
        await hang_up(writer)
        hanging.remove(writer)

    async def use() -> None:
        server = await asyncio.start_server(hang, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, GatewayClient(url, timeout_s=0.1) as client:
            with pytest.raises(GatewayConnectionLost):
                await client.list_runs()
            with pytest.raises(GatewayConnectionLost):
                async with client.socket():
                    pass
            await until(lambda: not hanging)

    asyncio.run(use())


def test_a_unix_socket_serves_calls_and_streams(tmp_path: Path) -> None:
    async def main() -> None:
        async with make_gateway(tmp_path) as gateway:
            server = await gateway.listen(path=tmp_path / "g.sock")
            assert server.url == f"unix:{tmp_path}/g.sock"
            async with GatewayClient(server.url) as client:
                await client.launch_run("one", run_id="r")
                events = [event async for event in client.stream_run_events("r")]
                assert events[-1].is_last
                assert (await client.health())["ok"] is True

    asyncio.run(main())


# ── streams ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def collect(client: GatewayClient, events: list[RunEvent], after_seq: int | None = 0) -> None:
    async for event in client.stream_run_events("r", after_seq=after_seq):
        events.append(event)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        for _ in itertools.takewhile(lambda _: not condition(), itertools.count()):
            await asyncio.sleep(0.005)


def test_a_stream_goes_on_after_cuts_and_a_restart_with_each_event_once(tmp_path: Path) -> None:
    async def main() -> None:
        events: list[RunEvent] = []
        async with cable(None) as line, GatewayClient(line.url) as client:
            async with make_gateway(tmp_path) as gateway:
                line.target = (await gateway.listen(port=0)).port
                await client.launch_run("long", run_id="r")
                following = asyncio.create_task(collect(client, events))
                await until(lambda: any(e.event == "node.finished" for e in events))
                line.cut()
                connections = line.connections
                await until(lambda: line.connections > connections)
            line.target = None
            line.cut()
            async with make_gateway(tmp_path) as gateway:
                line.target = (await gateway.listen(port=0)).port
                await client.submit_signal("r", signal_name="go", payload={"on": True})
                await until(lambda: len(events) > 20)
                line.cut()
                await following
                async with GatewayClient(f"http://127.0.0.1:{line.target}") as direct:
                    whole = [event async for event in direct.stream_run_events("r")]
        assert events == whole
        assert told(events) == sorted(set(told(events)))
        assert [e.event for e in events].count("run.completed") == 1

    asyncio.run(main())


def test_from_now_on_starts_at_the_subscription_even_if_it_is_cut_before_anything_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribed: list[object] = []

    def opened(payload: object) -> Opened:
        subscribed.append(payload)
        return opened_of(payload)

    monkeypatch.setattr("smithers.client.client.opened_of", opened)

    async def main() -> None:
        events: list[RunEvent] = []
        async with cable(None) as line, GatewayClient(line.url) as client, make_gateway(tmp_path) as gateway:
            line.target = (await gateway.listen(port=0)).port
            await client.launch_run("gated", run_id="r")
            async with aclosing(client.stream_run_events("r")) as stream:
                async for event in stream:
                    if event.event == "approval.requested":
                        break
            subscribed.clear()
            following = asyncio.create_task(collect(client, events, None))
            await until(lambda: bool(subscribed))  # the client knows of it: before that, its "now" is yet to come
            line.target, port = None, line.target
            line.cut()
            async with GatewayClient(f"http://127.0.0.1:{port}") as direct:
                await direct.submit_approval("r", "ship", approved=True)
                await direct.wait_for_run("r")
            line.target = port
            await following
        names = [e.event for e in events]
        assert names[-1] == "run.completed"
        assert names.count("approval.decided") == 1
        assert "approval.requested" not in names

    asyncio.run(main())


def gateway_streams(gateway: object) -> int:
    return cast("int", vars(gateway)["_house"].services.streams.count)


def test_a_run_that_has_ended_ends_every_stream_at_once(tmp_path: Path) -> None:
    async def use(client: GatewayClient) -> None:
        await client.launch_run("one", run_id="r")
        whole = [e async for e in client.stream_run_events("r")]
        for after in (None, 0, whole[-2].seq, whole[-1].seq):
            events = [e async for e in client.stream_run_events("r", after_seq=after)]
            assert events[-1].event == "run.completed"
            assert events[-1].payload["status"] == "finished"
            if after is not None:
                rest = [e for e in events[:-1] if e.event != "run.gap_resync"]
                assert rest == [e for e in whole[:-1] if e.seq > after]

    real(tmp_path, use)


def test_a_refused_stream_is_an_error_and_not_tried_for_ever(tmp_path: Path) -> None:
    async def use(client: GatewayClient) -> None:
        with pytest.raises(GatewayError) as unknown:
            await anext(client.stream_run_events("nope"))
        assert unknown.value.error_code == "RunNotFound"
        await client.launch_run("gated", run_id="r")
        with pytest.raises(GatewayError) as future:
            await anext(client.stream_run_events("r", after_seq=10_000))
        assert future.value.error_code == "SeqOutOfRange"

    real(tmp_path, use)


@pytest.mark.parametrize("how", ["run.error", "close", "limit", "rate", "store"])
def test_what_passes_by_itself_is_survived(how: str) -> None:
    asked: list[int | None] = []

    async def talk(gateway: Scripted) -> None:
        if gateway.number == 1 and how == "limit":
            await gateway.refuse(await gateway.request(), "CONNECTION_LIMIT")
            await gateway.connection.close(1013, "connection limit reached")
            return
        if gateway.number == 1 and how == "rate":
            await gateway.answer(await gateway.request(), {})
            await gateway.refuse(await gateway.request(), "RateLimited", scope="run", limit=64)
            await gateway.connection.wait_closed()
            return
        if gateway.number == 1 and how == "store":
            await gateway.answer(await gateway.request(), {})
            await gateway.refuse(await gateway.request(), "STORAGE_ERROR", retryable=True)
            await gateway.connection.wait_closed()
            return
        asked.append(await gateway.open_stream())
        if gateway.number == 0:
            await gateway.run_event(4)
            await gateway.run_event(5)
            if how == "run.error":
                error = {"version": "v1", "code": "BackpressureDisconnect", "message": "slow"}
                await gateway.push("run.error", {"streamId": "s", "runId": "r", "error": error})
                await gateway.connection.wait_closed()
            else:
                await gateway.connection.close(1013, "event backpressure")
            return
        await gateway.run_event(5)  # told already
        await gateway.run_event(7)
        await gateway.run_event(8, "run.completed", status="finished")
        await gateway.connection.wait_closed()

    async def use(client: GatewayClient) -> None:
        events = [event async for event in client.stream_run_events("r", after_seq=3)]
        assert told(events) == [4, 5, 7, 8]
        assert asked == [3, 5]

    scripted(talk, use)


def test_a_database_that_refuses_for_good_ends_a_stream() -> None:
    async def talk(gateway: Scripted) -> None:
        await gateway.answer(await gateway.request(), {})
        await gateway.refuse(await gateway.request(), "STORAGE_ERROR")
        await gateway.connection.wait_closed()

    async def use(client: GatewayClient) -> None:
        with pytest.raises(GatewayError) as refused:
            await anext(client.stream_run_events("r"))
        assert (refused.value.error_code, refused.value.is_passing) == ("STORAGE_ERROR", False)

    scripted(talk, use)


def test_a_run_that_was_continued_as_another_ends_its_stream() -> None:
    async def talk(gateway: Scripted) -> None:
        await gateway.open_stream()
        await gateway.run_event(4, "run.status_changed", status="paused")
        await gateway.run_event(5, "run.status_changed", status="continued")
        await gateway.connection.wait_closed()

    async def use(client: GatewayClient) -> None:
        assert told([event async for event in client.stream_run_events("r")]) == [4, 5]

    scripted(talk, use)


def test_giving_a_stream_up_hangs_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with make_gateway(tmp_path) as gateway:
            server = await gateway.listen(port=0)
            async with GatewayClient(server.url) as client:
                await client.launch_run("gated", run_id="r")
                events: list[RunEvent] = []
                following = asyncio.create_task(collect(client, events))
                await until(lambda: any(e.event == "approval.requested" for e in events))
                assert gateway_streams(gateway) == 1
                following.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await following
                await until(lambda: gateway_streams(gateway) == 0)

    asyncio.run(main())


def test_a_slow_reader_keeps_few_events_and_misses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "SOFT_EVENTS", 10)
    total, sent = 2_000, 0
    kept: list[int] = []
    made: list[sockets.GatewaySocket] = []

    async def noted(*args: object) -> sockets.GatewaySocket:
        found = await open_socket(*args)  # type: ignore[arg-type]
        made.append(found)
        return found

    open_socket = sockets.open_socket
    monkeypatch.setattr("smithers.client.client.open_socket", noted)

    async def talk(gateway: Scripted) -> None:
        nonlocal sent
        await gateway.open_stream()
        for seq in range(4, total + 4):
            await gateway.run_event(seq, "task.output", output="x" * 16_000)
            sent += 1
        await gateway.run_event(total + 4, "run.completed", status="finished")
        await gateway.connection.wait_closed()

    async def use(client: GatewayClient) -> None:
        seen = 0
        async for _ in client.stream_run_events("r"):
            seen += 1
            if seen == 5:
                await asyncio.sleep(0.2)  # while the gateway sends as much as it can
                assert sent < total
            kept.append(len(vars(made[0])["_events"]))
        assert seen == total + 1
        assert max(kept) <= 11

    scripted(talk, use)


# ── sockets ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_socket_answers_many_calls_at_once_and_pushes_events_of_all_runs(tmp_path: Path) -> None:
    async def use(client: GatewayClient) -> None:
        async with client.socket() as socket:
            assert cast("dict[str, object]", socket.hello["identity"])["pid"]
            answers = await asyncio.gather(
                *(socket.call("launchRun", {"workflow": "one", "options": {"runId": f"r{i}"}}) for i in range(20))
            )
            assert sorted(str(cast("dict[str, object]", a)["runId"]) for a in answers) == sorted(
                f"r{i}" for i in range(20)
            )
            done: set[str] = set()
            async for frame in socket.frames():
                if frame["event"] == "run.completed":
                    done.add(str(cast("dict[str, object]", frame["payload"])["runId"]))
                if len(done) == 20:
                    break

    real(tmp_path, use)


def test_calls_are_answered_while_nobody_reads_events_until_too_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "SOFT_EVENTS", 5)
    monkeypatch.setattr(sockets, "HARD_EVENTS", 100)

    async def talk(gateway: Scripted) -> None:
        await gateway.answer(await gateway.request(), {})
        for count in (50, 200):
            request = await gateway.request()
            for number in range(count):
                await gateway.push("tick", {"ts": number})
            await gateway.answer(request, "done")
        await gateway.connection.wait_closed()

    async def use(client: GatewayClient) -> None:
        async with client.socket() as socket:
            assert await socket.call("echo") == "done"
            with pytest.raises(GatewayConnectionLost, match="not read"):
                await socket.call("echo")
            with pytest.raises(GatewayConnectionLost):
                await socket.call("echo")
            got = [await socket.receive() for _ in range(100)]
            assert len(got) == 100
            with pytest.raises(GatewayConnectionLost):
                await socket.receive()

    scripted(talk, use)


def test_a_call_that_was_given_up_does_not_disturb_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(gateway: Scripted) -> None:
        await gateway.answer(await gateway.request(), {})
        first, second = await gateway.request(), await gateway.request()
        await gateway.answer(first, 1)
        await gateway.answer(second, 2)
        await gateway.connection.wait_closed()

    async def use(client: GatewayClient) -> None:
        async with client.socket() as socket:
            first = asyncio.create_task(socket.call("echo"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert await socket.call("echo") == 2

    scripted(talk, use)


def test_a_stream_of_an_extension_begins_with_what_it_begins_with_and_ends_with_its_error() -> None:
    async def talk(gateway: Scripted) -> None:
        await gateway.answer(await gateway.request(), {})
        request = await gateway.request()
        assert (request["method"], request["params"]) == ("ext.stream.shop.sales", {"since": 3})
        names = {"streamId": "s", "namespace": "shop", "key": "sales"}
        await gateway.answer(request, {**names, "initial": None})
        await gateway.push("tick", {"ts": 1})
        await gateway.push("ext.stream.event", {**names, "payload": {"sold": 1}})
        error = {"version": "v1", "code": "PayloadTooLarge", "message": "too much", "maxBytes": 4}
        await gateway.push("ext.stream.error", {**names, "error": error})
        await gateway.connection.wait_closed()

    async def use(client: GatewayClient) -> None:
        stream = client.stream_extension("shop", "sales", {"since": 3})
        assert await anext(stream) is None
        assert await anext(stream) == {"sold": 1}
        with pytest.raises(GatewayError) as ended:
            await anext(stream)
        assert ended.value.details == {"maxBytes": 4}

    scripted(talk, use)
