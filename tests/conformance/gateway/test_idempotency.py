"""The same launch twice is one run, the same signal twice one signal: whenever it is repeated, whoever else uses the key,
whichever gateway is asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.gateway.flows import workflows
from tests.conformance.gateway.support import House, Json, bearer, house_of, tokens
from tests.conformance.gateway.world import World


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("guarded"), auth=tokens({"ann": ["*"], "ben": ["*"]})) as found:
        yield found


def launch(house: House, key: str, workflow: str = "one", who: str = "ann", **more: Any) -> Any:
    input = more.pop("input", {})
    params = {"workflow": workflow, "input": input, "options": {"idempotencyKey": key, **more}}
    found = house.http.post("/v1/rpc/launchRun", json=params, headers=bearer(who)).json()
    return found["payload"] if found["ok"] else found["error"]["code"]


def test_the_same_launch_twice_is_one_run_whatever_has_become_of_it(guarded: House) -> None:
    for workflow, status in (
        ("one", "finished"),
        ("gated", "waiting-approval"),
        ("slow", "running"),
        ("broken", "failed"),
    ):
        first = launch(guarded, f"k-{workflow}", workflow)
        assert launch(guarded, f"k-{workflow}", workflow) == first
        guarded.until(first["runId"], status)
        assert launch(guarded, f"k-{workflow}", workflow) == first
        assert guarded.status(first["runId"]) == status


def test_a_key_is_good_for_one_workflow_and_one_input(guarded: House, tmp_path: Path) -> None:
    waits = launch(guarded, "k2", "gated", input={"a": 1})["runId"]
    guarded.until(waits, "waiting-approval")
    elsewhere = workflows(tmp_path / "other.db")["one"]
    guarded.do(lambda: guarded.gateway.register("elsewhere", elsewhere))
    assert launch(guarded, "k2", "gated", input={"a": 2}) == "CONFLICT"
    assert launch(guarded, "k2", "one", input={"a": 1}) == "CONFLICT"
    assert launch(guarded, "k2", "one", input={"a": 1}, runId=waits) == "CONFLICT"
    assert launch(guarded, "k2", "elsewhere", input={"a": 1}) == "CONFLICT"
    assert launch(guarded, "k2", "gated", input={"a": 1})["runId"] == waits
    assert guarded.ok("getRun", runId=waits)["workflowKey"] == "gated"
    assert guarded.status(waits) == "waiting-approval"


def test_every_caller_has_their_own_keys(guarded: House) -> None:
    runs = {launch(guarded, "k3", who=who)["runId"] for who in ("ann", "ben", "root-token")}
    assert len(runs) == 3


def test_callers_without_a_name_have_their_own_keys_too(tmp_path: Path) -> None:
    nameless = {name: {"role": "user", "scopes": ["*"]} for name in ("a", "b")}
    with house_of(tmp_path, auth={"mode": "token", "tokens": nameless}) as house:
        assert launch(house, "k", who="a") == launch(house, "k", who="a") != launch(house, "k", who="b")


def test_the_same_launch_many_times_at_once_is_one_run(guarded: House) -> None:
    with guarded.socket("ann") as socket:
        for run_id in ({}, {"runId": "together"}):
            params = {"workflow": "slow", "options": {"idempotencyKey": f"k4{run_id}", **run_id}}
            sent = [socket.send("launchRun", params) for _ in range(20)]
            assert len({socket.answer(request).payload["runId"] for request in sent}) == 1


def test_two_gateways_on_one_database_make_one_run_of_a_key(tmp_path: Path) -> None:
    with house_of(tmp_path) as one, House(tmp_path) as two, ThreadPoolExecutor(8) as threads:
        for house in (one, two):
            house.start("gated")  # the source is read once, and not by two threads at once
        for number in range(5):
            params: Json = {"workflow": "gated", "options": {"idempotencyKey": f"k{number}"}}
            made = [threads.submit(house.call, "launchRun", params) for house in (one, two) * 4]
            assert len({answer.result().payload["runId"] for answer in made}) == 1


def test_a_key_outlives_a_restart(tmp_path: Path) -> None:
    with house_of(tmp_path) as house:
        first = house.ok("launchRun", workflow="gated", options={"idempotencyKey": "k"})
        house.until(first["runId"], "waiting-approval")
    with house_of(tmp_path) as house:
        assert house.ok("launchRun", workflow="gated", options={"idempotencyKey": "k"}) == first
        assert house.call("launchRun", {"workflow": "one", "options": {"idempotencyKey": "k"}}).code == "CONFLICT"


# ── signals ────────────────────────────────────────────────────────────────────────────────────────────────────────


def received(house: House, run_id: str) -> int:
    """How often a signal was put into a run's mailbox."""
    return len(re.findall('"signalSeq"', house.http.get(f"/v1/api/runs/{run_id}/events?limit=1000").text))


@pytest.mark.parametrize("transport", ["bare", "socket", "rest"])
def test_the_same_signal_twice_is_one_whatever_has_become_of_its_run(guarded: House, transport: str) -> None:
    def send(**more: Any) -> Any:
        params = {"runId": run_id, "correlationKey": "k", "signalName": "ping", "payload": {"n": 1}, **more}
        if transport == "rest":
            answer = guarded.http.post("/v1/api/signals", json=params).json()
            return answer["data"] if answer["ok"] else answer["error"]["code"]
        found = guarded.call("submitSignal", params, transport)
        return found.payload if found.frame["ok"] else found.code

    run_id = guarded.start("waiting", {"key": "k"}, until="waiting-event")
    other = send(correlationId="other", idempotencyKey="another")
    first = send(idempotencyKey="k")
    assert (first["runId"], first["signalName"], first["correlationId"]) == (run_id, "ping", "k")
    assert first["seq"] > other["seq"]
    assert send(idempotencyKey="k") == first
    guarded.until(run_id, "finished")
    assert send(idempotencyKey="k") == first  # as whoever lost the answer asks
    assert received(guarded, run_id) == 2
    for change in ({"payload": {"n": 2}}, {"signalName": "pong"}, {"correlationId": "j"}):
        assert send(idempotencyKey="k", **change) == "INVALID_INPUT"
    assert send() == send(idempotencyKey="new") == "RUN_NOT_ACTIVE"
    assert received(guarded, run_id) == 2


@pytest.mark.parametrize("transport", ["bare", "socket", "rest"])
@pytest.mark.parametrize("key", ["", "k" * 257, 7, True, [], {}])
def test_a_key_of_a_signal_is_a_text_of_1_to_256_characters(world: World, key: object, transport: str) -> None:
    params = {"runId": world.asking, "correlationKey": "k", "idempotencyKey": key}
    before = world.stored()
    if transport == "rest":
        answer = world.house.http.post("/v1/api/signals", json=params)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "INVALID_REQUEST")
    else:
        assert world.house.call("submitSignal", params, transport).code == "INVALID_REQUEST"
    assert world.changes_since(before) == {}


def test_the_same_signal_sent_at_once_from_everywhere_is_delivered_once(guarded: House) -> None:
    run_id = guarded.start("waiting", {"key": "k"}, until="waiting-event")
    params = {"runId": run_id, "correlationKey": "x" * 8, "idempotencyKey": "k" * 256}
    with ThreadPoolExecutor(8) as threads:
        made = [threads.submit(guarded.call, "submitSignal", params) for _ in range(16)]
        receipts = [future.result().payload for future in made]
    assert all(receipt == receipts[0] for receipt in receipts)
    assert received(guarded, run_id) == 1
