"""Every route of `create_serve_app`, in process: good, each bad input, unauthorized, wrong state; alone and mounted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from tests.conformance.http.support import Folder, code, events_of

from smithers import Engine, Settings, SmithersDb, create_serve_app, load_workflow
from smithers.asgi.routing import HttpApp
from smithers.engine.host import Host
from smithers.store.sql import audit, reads

FAST = Settings(durability="normal", heartbeat_ms=200)


class Served:
    """A stored run, and an app for it."""

    def __init__(self, path: Path) -> None:
        self.folder = Folder(path)
        self.workflow = load_workflow(self.folder.workflow)
        self.adapter = SmithersDb(self.folder.db, FAST)
        self.aborted = 0

    def app(self, run_id: str = "r", **options: object) -> HttpApp:
        def abort() -> None:
            self.aborted += 1

        return create_serve_app(
            workflow=self.workflow,
            adapter=self.adapter,
            run_id=run_id,
            abort=abort,
            settings=FAST,
            **options,  # type: ignore[arg-type]
        )

    def run(self, run_id: str = "r", input: dict[str, object] | None = None, **more: object) -> str:
        """Run until it ends or parks; its status."""
        given = {**(input or {}), **more}

        async def drive() -> str:
            engine = Engine(self.adapter.store, FAST)
            try:
                handle = await engine.launch(self.workflow, given, run_id=run_id)
                return (await handle.result).status.value
            finally:
                await engine.close()

        return asyncio.run(drive())

    def go_on(self) -> None:
        """Go on with what can go on, as a host does."""

        async def drive() -> None:
            engine = Engine(self.adapter.store, FAST)
            try:
                report = await Host(engine, lambda row: self.workflow).sweep()
                for run_id in report.resumed:
                    await (await engine.attach(run_id, self.workflow)).result
            finally:
                await engine.close()

        asyncio.run(drive())


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path / "flows")
    yield found
    found.adapter.close()


@contextmanager
def client_of(app: Callable[..., object]) -> Generator[TestClient]:
    with TestClient(app, base_url="http://localhost") as client:  # type: ignore[arg-type]
        yield client


def test_a_run_is_looked_at_followed_and_measured(served: Served) -> None:
    served.run(many=3)
    with client_of(served.app()) as client:
        found = client.get("/").json()
        assert (found["runId"], found["status"], found["summary"]) == ("r", "finished", {"finished": 5})
        assert found["runState"]["state"] == "succeeded"
        stream = client.get("/events")
        assert stream.text.startswith("retry: 1000\n\nevent: smithers\ndata: ")
        events = list(events_of(iter(stream.text.splitlines())))
        assert [event["id"] for event in events] == list(range(len(events)))
        for query, headers in (("?afterSeq=3", {}), ("?afterSeq=3abc", {}), ("", {"last-event-id": "3"})):
            rest = client.get(f"/events{query}", headers=headers).text
            assert list(events_of(iter(rest.splitlines()))) == events[4:]
        assert len(list(events_of(iter(client.get("/events?afterSeq=x").text.splitlines())))) == len(events)
        frames = client.get("/frames?limit=0").json()
        assert [f["frameNo"] for f in frames] == sorted((f["frameNo"] for f in frames), reverse=True)
        assert len(client.get("/frames?limit=1&afterFrameNo=x").json()) == 1
        assert 'route="/events"' in client.get("/metrics").text
        assert "/approve/{nodeId}" in client.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(("verb", "ends"), [("approve", "finished"), ("deny", "failed")])
def test_a_decision_is_durable_and_made_once(served: Served, verb: str, ends: str) -> None:
    assert served.run(ask=True) == "waiting-approval"
    with client_of(served.app()) as client:
        node = f"/{verb}/ship%2Fit"
        assert code(client.post(node, content=b"{")) == (400, "INVALID_JSON")
        assert code(client.post(node, content=b"null")) == (400, "INVALID_REQUEST")
        assert code(client.post(node, json={"iteration": "0"})) == (400, "INVALID_REQUEST")
        assert code(client.post(f"/{verb}/nobody")) == (400, "INVALID_REQUEST")
        assert code(client.post(f"/{verb}/first")) == (409, "INVALID_REQUEST")
        assert code(client.post(node, content=b" " * 1_048_577)) == (413, "PAYLOAD_TOO_LARGE")
        assert client.post(node).json() == {"runId": "r"}
        assert code(client.post(node)) == (409, "INVALID_REQUEST")
        served.go_on()
        assert client.get("/").json()["status"] == ends


def test_a_signal_is_stored_for_the_run(served: Served) -> None:
    assert served.run(wait=True) == "waiting-event"
    with client_of(served.app()) as client:
        found = client.post("/signals/ping", json={"data": {"n": 1}}).json()
        assert (found["runId"], found["signalName"], found["correlationId"]) == ("r", "ping", None)
        served.go_on()
        assert client.get("/").json()["status"] == "finished"
        assert code(client.post("/signals/ping")) == (409, "RUN_NOT_ACTIVE")


def test_a_signal_with_a_key_is_stored_once(served: Served) -> None:
    assert served.run(wait=True) == "waiting-event"
    with client_of(served.app()) as client:
        sent = {"data": {"n": 1}, "idempotencyKey": "k"}
        first = client.post("/signals/ping", json=sent).json()
        assert client.post("/signals/ping", json=sent).json() == first
        for wrong in ({"data": {"n": 2}}, {"idempotencyKey": ""}, {"idempotencyKey": "k" * 257}, {"idempotencyKey": 1}):
            assert code(client.post("/signals/ping", json={**sent, **wrong})) == (400, "INVALID_REQUEST")
        served.go_on()
        assert client.post("/signals/ping", json=sent).json() == first
        assert client.get("/events").text.count("SignalReceived") == 1


@pytest.mark.parametrize("input", [{"ask": True}, {"wait": True}, {"timer": "1h"}])
def test_a_cancel_ends_the_run_and_fires_abort_once(served: Served, input: dict[str, object]) -> None:
    served.run(input=input)
    with client_of(served.app()) as client:
        answer = client.post("/cancel").json()
        assert (answer["won"], answer["status"], answer["terminalStatus"]) == (True, "cancelled", "cancelled")
        assert code(client.post("/cancel")) == (409, "RUN_NOT_ACTIVE")
        assert client.get("/").json()["status"] == "cancelled"
    assert served.aborted == 1


def test_an_unknown_run_is_told(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smithers.serve.app.BIRTH_PATIENCE_S", 0.05)
    with client_of(served.app("nobody")) as client:
        for method, path in (("GET", "/"), ("POST", "/cancel"), ("GET", "/events"), ("POST", "/approve/x")):
            assert code(client.request(method, path)) == (404, "RUN_NOT_FOUND")
        assert client.get("/frames").json() == []


def test_a_stream_waits_for_a_run_that_is_about_to_be_stored(served: Served) -> None:
    async def use() -> str:
        from httpx2 import ASGITransport, AsyncClient

        engine = Engine(served.adapter.store, FAST)
        async with AsyncClient(transport=ASGITransport(app=served.app()), base_url="http://localhost") as client:
            reading = asyncio.create_task(client.get("/events"))
            await asyncio.sleep(0)
            await engine.launch(served.workflow, run_id="r")
            text = (await reading).text
        await engine.close()
        return text

    assert "RunFinished" in asyncio.run(use())


def test_a_token_guards_all_but_health(served: Served) -> None:
    served.run()
    with client_of(served.app(auth_token="t")) as client:
        assert client.get("/health", headers={"host": "evil.example"}).json() == {"ok": True}
        for path in ("/", "/events", "/frames", "/metrics", "/nowhere"):
            assert code(client.get(path)) == (401, "UNAUTHORIZED")
        assert client.get("/", headers={"x-smithers-key": "t"}).status_code == 200
        assert client.get("/", headers={"authorization": "Bearer t", "host": "evil.example"}).status_code == 200


def test_without_a_token_foreign_hosts_are_refused_unless_told_otherwise(served: Served) -> None:
    served.run()
    with client_of(served.app()) as client:
        assert code(client.get("/", headers={"host": "evil.example"})) == (403, "FORBIDDEN")
        assert code(client.get("/", headers={"origin": "null"})) == (403, "FORBIDDEN")
    with client_of(served.app(insecure=True)) as client:
        assert client.get("/", headers={"host": "evil.example"}).status_code == 200


def test_the_app_works_below_a_prefix_of_a_larger_one(served: Served) -> None:
    served.run(ask=True)
    outer = Starlette(routes=[Mount("/runs/one", app=served.app(metrics=False))])
    with client_of(outer) as client:
        assert client.get("/runs/one/").json()["status"] == "waiting-approval"
        assert client.get("/runs/one/health").json() == {"ok": True}
        assert code(client.get("/runs/one/metrics")) == (404, "NOT_FOUND")
        assert client.post("/runs/one/approve/ship%2Fit").json() == {"runId": "r"}


def test_metrics_tell_of_the_run_whoever_drives_it(served: Served) -> None:
    with client_of(served.app()) as client:
        assert "smithers_runs_total 0\n" in client.get("/metrics").text
        served.run(ask=True)
        found = client.get("/metrics").text
        assert "smithers_runs_total 1\n" in found
        assert "smithers_approvals_requested 1\n" in found
        assert "smithers_approval_pending 1\n" in found
        assert client.get("/metrics").text.count("smithers_runs_total 1\n") == 1


def test_a_rewind_that_was_cut_off_is_closed_when_the_app_begins_to_serve(served: Served) -> None:
    served.run()
    store = served.adapter.store
    store.write(lambda c: audit.begin(c, "r", 2, 1, "ann", 0))

    def results() -> list[object]:
        found = store.read(lambda c: c.execute("SELECT result FROM _smithers_time_travel_audit").fetchall())
        return [result for (result,) in found]

    with TestClient(served.app()) as client:
        for _ in range(1_000):
            if results() == ["partial"]:
                break
            assert client.get("/health").status_code == 200  # a turn of the loop that looks after it

    assert results() == ["partial"]
    assert "TimeTravelInterrupted" in [e.type for e in store.read(lambda c: reads.events(c, "r", -1, 1_000))]
