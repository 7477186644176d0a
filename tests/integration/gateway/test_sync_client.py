"""SyncGatewayClient: the same calls and streams, from threads without an event loop."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import cast

import pytest
from tests.integration.gateway.client_support import gateway_thread

from smithers.client import GatewayConnectionLost, GatewayError, SyncGatewayClient
from smithers.errors import InvalidInput


def test_a_run_is_driven_without_an_event_loop(tmp_path: Path) -> None:
    with gateway_thread(tmp_path) as gateway, SyncGatewayClient(gateway.url) as client:
        assert client.url == gateway.url
        assert client.health()["ok"] is True
        client.launch_run("gated", run_id="r")
        for event in client.stream_run_events("r"):
            if event.event == "approval.requested":
                client.submit_approval("r", "ship", approved=True)
        assert client.wait_for_run("r")["status"] == "finished"
        assert client.call("ext.shop.echo", {"a": 1}) == {"params": {"a": 1}, "kind": "resource"}
        with pytest.raises(GatewayError) as refused:
            client.get_run("nope")
        assert refused.value.http_status == 404


def test_a_stream_that_is_left_is_closed_and_the_client_goes_on(tmp_path: Path) -> None:
    with gateway_thread(tmp_path) as gateway, SyncGatewayClient(gateway.url) as client:
        client.launch_run("gated", run_id="r")
        for event in client.stream_run_events("r"):
            if event.event == "approval.requested":
                break
        assert [run["runId"] for run in client.list_runs()] == ["r"]


def test_threads_share_a_client_and_closing_it_ends_what_they_wait_for(tmp_path: Path) -> None:
    ended: list[type[BaseException]] = []

    def wait(client: SyncGatewayClient) -> None:
        try:
            client.wait_for_run("r")
        except GatewayConnectionLost as error:
            ended.append(type(error))

    with gateway_thread(tmp_path) as gateway:
        client = SyncGatewayClient(gateway.url)
        client.launch_run("gated", run_id="r")
        waiting = [threading.Thread(target=wait, args=(client,)) for _ in range(3)]
        for thread in waiting:
            thread.start()
        stream = client.stream_run_events("r")
        assert next(stream).run_id == "r"
        client.close()
        for thread in waiting:
            thread.join(60)
        assert ended == [GatewayConnectionLost] * 3
        client.close()
        stream.close()
        with pytest.raises(GatewayConnectionLost, match="closed"):
            client.list_runs()


def test_a_wrong_address_starts_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(InvalidInput):
        SyncGatewayClient("nowhere")
    assert threading.active_count() == before


def test_the_number_of_a_run_reaches_the_right_place(tmp_path: Path) -> None:
    with gateway_thread(tmp_path) as gateway, SyncGatewayClient(gateway.url) as client:
        client.launch_run("one", run_id="r", max_concurrency=2, started_by={"harness": "tests"})
        run = client.wait_for_run("r")
        assert cast("dict[str, object]", run["startedBy"])["harness"] == "tests"
