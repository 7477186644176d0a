"""The same launch twice is one run: whenever it is repeated, whoever else uses the key, whichever gateway is asked."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.gateway.flows import workflows
from tests.conformance.gateway.support import House, Json, bearer, house_of, tokens


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
