"""A gateway whose database goes away and comes back: it says so, answers what may be asked again, and streams go on."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.integration.gateway.client_support import make_gateway, workflows
from tests.postgres_support import Line

from smithers import Gateway, Settings, store
from smithers.client import GatewayClient, GatewayConnectionLost, GatewayError, RunEvent
from smithers.client.frames import Backoff
from smithers.store.sql.store import SqlStore

DEADLINE_S = 60.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect again after a moment, and give a server that is away little time."""

    def take(self: Backoff) -> float:
        return 0.02

    monkeypatch.setattr(Backoff, "take", take)
    monkeypatch.setattr("smithers.control.pulse.FRESH_S", 0.01)
    monkeypatch.setattr("smithers.store.postgres.database.RECONNECT_S", 0.2)


async def until_degraded(url: str, is_so: bool) -> object:
    async with asyncio.timeout(DEADLINE_S), httpx2.AsyncClient(trust_env=False) as http:
        while True:
            answer = await http.get(f"{url}/health")
            assert answer.status_code == 200
            found = answer.json()
            if found["degraded"] is is_so:
                return found["reason"]
            await asyncio.sleep(0.01)


@pytest.mark.anyio
async def test_a_stream_and_health_get_over_a_database_that_is_away(tmp_path: Path, postgres_line: Line) -> None:
    gateway = Gateway(settings=Settings(durability="normal"))
    for key, workflow in workflows(tmp_path).items():
        workflow.db = postgres_line.url
        gateway.register(key, workflow)
    async with gateway:
        server = await gateway.listen(port=0, host="127.0.0.1")
        async with GatewayClient(server.url) as client:
            assert await until_degraded(server.url, False) is None
            run_id = str((await client.launch_run("gated"))["runId"])
            async with aclosing(client.stream_run_events(run_id)) as events:
                assert [e async for e in takewhile_not(events, "approval.requested")]

            postgres_line.away()
            assert await until_degraded(server.url, True) == "the database cannot be reached"
            with pytest.raises(GatewayError) as refused:
                await client.get_run(run_id)
            assert (refused.value.error_code, refused.value.http_status) == ("STORAGE_ERROR", 503)
            assert refused.value.is_passing
            assert refused.value.body["retryable"] is True
            # begins while nothing can be read, and is told everything once that has changed
            stream = asyncio.create_task(all_of(client, run_id))
            await asyncio.sleep(0)
            assert (await httpx2_get(f"{server.url}/metrics")).status_code == 200

            postgres_line.back()
            assert await until_degraded(server.url, False) is None
            assert (await client.health())["degraded"] is False
            await client.submit_approval(run_id, "ship", approved=True)
            assert (await asyncio.wait_for(stream, DEADLINE_S))[-1] == "run.completed"


async def takewhile_not(events: AsyncGenerator[RunEvent], name: str) -> AsyncGenerator[RunEvent]:
    async for event in events:
        if event.event == name:
            return
        yield event


async def all_of(client: GatewayClient, run_id: str) -> list[str]:
    return [event.event async for event in client.stream_run_events(run_id)]


async def httpx2_get(url: str) -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False) as http:
        return await http.get(url)


@pytest.mark.anyio
async def test_a_gateway_that_has_only_just_begun_to_listen_does_not_deny_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_gateway(tmp_path) as gateway:
        server = await gateway.listen(port=0, host="127.0.0.1")
        async with GatewayClient(server.url) as client:
            run_id = str((await client.launch_run("one"))["runId"])
            await client.wait_for_run(run_id)
    may_open = threading.Event()
    open_store = store.open_store

    def slowly(*given: Any, **options: Any) -> SqlStore:
        assert may_open.wait(DEADLINE_S)
        return open_store(*given, **options)

    monkeypatch.setattr("smithers.control.hosting.open_store", slowly)
    found = free_port()
    gateway = make_gateway(tmp_path)
    opening = asyncio.create_task(gateway.listen(port=found, host="127.0.0.1"))
    try:
        async with GatewayClient(f"http://127.0.0.1:{found}") as client:
            await until_up(client)
            asked = asyncio.create_task(client.get_run(run_id))
            assert not opening.done()
            may_open.set()
            assert (await asked)["status"] == "finished"
    finally:
        may_open.set()
        await opening
        await gateway.close()


async def until_up(client: GatewayClient) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await client.health()
                return
            except GatewayConnectionLost:
                await asyncio.sleep(0.01)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])
