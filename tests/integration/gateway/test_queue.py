"""Launches beyond the limit wait: stored, readable, in order, cancellable, across restarts; too many are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.conformance.gateway.support import House, eventually, house_of

from smithers.errors import InvalidInput
from smithers.gateway.config import GatewayOptions

QUEUED = "waiting-quota"


def patient(house: House, name: str) -> str:
    """A run that ends once its file is there."""
    file = str(house.folder / name)
    return str(house.ok("launchRun", workflow="patient", input={"file": file}, options={"runId": name})["runId"])


def let_end(house: House, *names: str) -> None:
    for name in names:
        (house.folder / name).write_text("done")


def started(house: House, *names: str) -> list[str]:
    """Those that have begun, in order."""
    found: list[dict[str, Any]] = [house.ok("getRun", runId=name) for name in names]
    begun = [run for run in found if run["startedAtMs"] is not None]
    return [str(run["runId"]) for run in sorted(begun, key=lambda run: int(run["startedAtMs"]))]


def test_a_launch_beyond_the_limit_is_stored_and_readable_and_starts_when_there_is_room(tmp_path: Path) -> None:
    with house_of(tmp_path, max_active_runs=1) as house, house.socket() as socket:
        first, second = patient(house, "a"), patient(house, "b")
        found = house.ok("getRun", runId=second)
        assert (found["status"], found["startedAtMs"], found["workflowKey"]) == (QUEUED, None, "patient")
        assert found["runState"]["state"] == QUEUED
        assert [run["runId"] for run in house.ok("listRuns", filter={"status": QUEUED})] == [second]
        assert house.ok("resumeRun", runId=second)["status"] == "resume_requested"
        assert house.status(second) == QUEUED
        let_end(house, "a", "b")
        house.until(first, "finished")
        house.until(second, "finished")
        told = socket.event("run.status_changed", lambda p: p["runId"] == second and p["status"] == QUEUED)
        assert told["timestampMs"] > 0
        socket.event("run.completed", lambda p: p["runId"] == second)
        found = house.ok("getRun", runId=second)
        assert found["workflowName"] == "patient"
        assert found["startedAtMs"] >= found["createdAtMs"]
        types = [row["event"] for row in house.http.get(f"/v1/api/runs/{second}/events").json()["data"]]
        assert types[:3] == ["RunStatusChanged", "RunStarted", "RunStatusChanged"]
        assert types.count("RunStarted") == 1


def test_those_that_wait_start_in_the_order_of_their_launches(tmp_path: Path) -> None:
    names = [f"r{number:02}" for number in range(12)]
    with house_of(tmp_path, max_active_runs=1) as house:
        for name in names:
            patient(house, name)
        for at, name in enumerate(names):
            house.until(name, "running")
            assert started(house, *names) == names[: at + 1]
            let_end(house, name)
            house.until(name, "finished")


def test_a_launch_does_not_overtake_those_that_wait(tmp_path: Path) -> None:
    with house_of(tmp_path, max_active_runs=2) as house:
        names = ["a", "b", "c", "d", "e"]
        for name in names:
            patient(house, name)
        let_end(house, "a", "b", "c", "d", "e")
        patient(house, "f")
        let_end(house, "f")
        for name in (*names, "f"):
            house.until(name, "finished")
        order = started(house, *names, "f")
        assert order.index("f") > order.index("d")


def test_a_run_that_waits_can_be_cancelled_and_never_starts(tmp_path: Path) -> None:
    with house_of(tmp_path, max_active_runs=1) as house:
        for name in ("a", "b", "c"):
            patient(house, name)
        assert house.ok("cancelRun", runId="b")["status"] == "cancelled"
        assert house.status("b") == "cancelled"
        let_end(house, "a", "b", "c")
        house.until("c", "finished")
        assert house.ok("getRun", runId="b")["startedAtMs"] is None


def test_more_than_may_wait_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with house_of(tmp_path, max_active_runs=1, max_queued_runs=2) as house:
        for name in ("a", "b", "c"):
            patient(house, name)
        file = {"file": str(tmp_path / "x")}
        launch = {"workflow": "patient", "input": file, "options": {"runId": "d", "idempotencyKey": "k"}}
        refused = house.call("launchRun", launch)
        assert (refused.status, refused.code) == (429, "QUOTA_EXCEEDED")
        assert refused.frame["error"]["details"] == {"limit": 2}
        assert house.call("getRun", {"runId": "d"}).code == "NOT_FOUND"
        let_end(house, "a", "x")
        house.until("b", "running")
        for _ in range(2):
            assert house.call("launchRun", launch).payload["runId"] == "d"
        let_end(house, "b", "c")
        house.until("d", "finished")


def test_many_launches_at_once_start_as_many_as_there_is_room_for(tmp_path: Path) -> None:
    with house_of(tmp_path, max_active_runs=5, max_queued_runs=20) as house, house.socket() as socket:
        sent = [socket.send("launchRun", {"workflow": "slow"}) for _ in range(40)]
        codes = [socket.answer(request_id).code for request_id in sent]
        assert sorted(codes, key=str) == [None] * 25 + ["QUOTA_EXCEEDED"] * 15
        assert len(house.ok("listRuns", filter={"status": QUEUED, "limit": 100})) == 20


def test_what_waits_is_started_by_the_next_gateway_with_its_input(tmp_path: Path) -> None:
    with house_of(tmp_path, max_active_runs=1) as house:
        for name in ("a", "b", "c"):
            patient(house, name)
    let_end(house, "a", "b", "c")
    with house_of(tmp_path, max_active_runs=1) as house:
        for name in ("a", "b", "c"):
            house.until(name, "finished")
        assert started(house, "b", "c") == ["b", "c"]


def test_gateways_on_one_database_share_what_waits(tmp_path: Path) -> None:
    with house_of(tmp_path, max_active_runs=1) as busy:
        for name in ("a", "b"):
            patient(busy, name)
        assert busy.status("b") == QUEUED
        with house_of(tmp_path, max_active_runs=1) as free:
            free.until("b", "running")
            let_end(free, "a", "b")
            free.until("b", "finished")


def test_a_parked_run_needs_no_place_and_waits_for_none(tmp_path: Path) -> None:
    with house_of(tmp_path, max_active_runs=1) as house:
        gated = house.start("gated", until="waiting-approval")
        patient(house, "a")
        house.ok("submitApproval", runId=gated, nodeId="ship", approved=True)
        house.until(gated, "finished")
        assert house.status("a") == "running"
        let_end(house, "a")


@pytest.mark.parametrize("value", [-1, True, 1.5, "many", None])
def test_the_number_that_may_wait_is_checked(value: Any) -> None:
    with pytest.raises(InvalidInput, match="max_queued_runs"):
        GatewayOptions(max_queued_runs=value)


def test_the_queue_is_counted_in_the_metrics(tmp_path: Path) -> None:
    with house_of(tmp_path, max_active_runs=1) as house:
        for name in ("a", "b", "c"):
            patient(house, name)

        def depth() -> bool | None:
            return "smithers_scheduler_queue_depth 2" in house.http.get("/metrics").text or None

        eventually(depth, "two runs wait")
        let_end(house, "a", "b", "c")
