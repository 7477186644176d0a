"""The gateway example: an order by call, one by webhook, and who may do what."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import httpx2
import pytest
from tests.acceptance.examples.support import EXAMPLES

from smithers import GatewayError, SyncGatewayClient

HERE = EXAMPLES / "gateway"


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("SMITHERS_", "ORDERS_"))}


@pytest.fixture
def url(tmp_path: Path) -> Generator[str]:
    """The address of the example's gateway, as a process of its own."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "serve.py"), "--port", "0"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        assert process.wait(60) == 0
        process.stdout.close()


def desk(url: str, *wanted: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(HERE / "desk.py"), url, *wanted],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_dear_order_is_agreed_to_and_shipped(url: str) -> None:
    assert desk(url, "desk", "2") == [
        "price is done",
        "Ship 2 × desk for 500? yes",
        "agree is done",
        "ship is done",
        "the order has finished",
    ]


def test_an_order_by_webhook_is_started_once_and_refused_by_the_desk(url: str) -> None:
    body = json.dumps({"item": "desk", "count": 4}).encode()
    signature = hmac.new(b"example", body, hashlib.sha256).hexdigest()
    headers = {"x-hub-signature-256": f"sha256={signature}", "x-delivery": "d1"}
    answers = [httpx2.post(f"{url}/webhooks/orders", content=body, headers=headers, trust_env=False) for _ in range(2)]
    forged = httpx2.post(f"{url}/webhooks/orders", content=body + b" ", headers=headers, trust_env=False)
    assert [answer.status_code for answer in (*answers, forged)] == [200, 200, 401]
    run_id = answers[0].json()["started"]["runId"]

    with SyncGatewayClient(url, token="desk-token") as client:
        for event in client.stream_run_events(run_id):
            if event.event == "approval.requested":
                assert desk(url) == ["Ship 4 × desk for 1000? no"]
        assert client.get_run(run_id)["status"] == "failed"
        assert [run["runId"] for run in client.list_runs()] == [run_id]


def test_a_viewer_sees_prices_and_runs_and_starts_nothing(url: str) -> None:
    with SyncGatewayClient(url, token="viewer-token") as client:
        assert client.call("ext.shop.prices") == {"prices": {"lamp": 40, "desk": 250, "chair": 90}, "limit": 200}
        assert client.list_runs() == []
        with pytest.raises(GatewayError) as refused:
            client.launch_run("orders")
        assert refused.value.required_scope == "run:write"
