"""Requests of people about runs that others launched: taking them over, going on with them; and what a gateway cannot do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.gateway.support import House, bearer, eventually, house_of, tokens

from smithers import Gateway
from smithers.errors import InvalidInput


def _resumed(house: House, run_id: str) -> Any:
    """The run, once it was resumed and has parked again: the answer to a resume may come before either."""

    def look() -> Any:
        rows = house.http.get(f"/v1/api/runs/{run_id}/events").json()["data"]
        begun = [row["event"] for row in rows].count("RunStarted")
        found = house.ok("getRun", runId=run_id)
        return found if begun == 2 and found["status"] == "waiting-approval" else None

    return eventually(look, f"{run_id} is resumed")


def test_a_request_to_take_a_run_over_is_recorded_until_it_is_resumed(tmp_path: Path) -> None:
    with house_of(tmp_path) as house:
        run_id = house.start("gated", until="waiting-approval")
        answer = house.ok("hijackRun", runId=run_id, options={"target": "me"})
        assert (answer["runId"], answer["status"], len(answer["sessionId"])) == (run_id, "hijack-ready", 36)
        found = house.ok("getRun", runId=run_id)
        assert found["hijackTarget"] == "me"
        assert found["hijackRequestedAtMs"] >= found["createdAtMs"]
        rows = house.http.get(f"/v1/api/runs/{run_id}/events").json()["data"]
        assert [r["payload"]["target"] for r in rows if r["event"] == "RunHijackRequested"] == ["me"]
        house.ok("resumeRun", runId=run_id)
        found = _resumed(house, run_id)
        assert (found["hijackRequestedAtMs"], found["hijackTarget"]) == (None, None)


def test_a_run_that_has_ended_without_a_session_cannot_be_taken_over(tmp_path: Path) -> None:
    with house_of(tmp_path) as house:
        run_id = house.start("one", until="finished")
        refused = house.call("hijackRun", {"runId": run_id})
        assert (refused.status, refused.code) == (409, "RUN_NOT_ACTIVE")
        assert house.call("hijackRun", {"runId": "nobody"}).code == "RunNotFound"
        assert house.call("hijackRun", {"runId": run_id, "options": {"target": 7}}).code == "INVALID_REQUEST"
        found = house.http.get(f"/v1/api/runs/{run_id}/hijack-candidates").json()["data"]
        assert found == {"runId": run_id, "candidates": []}


def test_who_resumes_a_run_is_recorded_apart_from_who_launched_it(tmp_path: Path) -> None:
    auth = tokens({"ann": ["*"], "ben": ["*"]})
    with House(tmp_path, auth=auth) as house:
        house.http.headers.update(bearer("ann"))
        run_id = house.start("gated", until="waiting-approval")
        assert "resumedBy" not in house.ok("getRun", runId=run_id)
        house.http.headers.update(bearer("ben"))
        house.ok("resumeRun", runId=run_id)
        found = _resumed(house, run_id)
        assert (found["resumedBy"]["triggeredBy"], found["resumedBy"]["role"]) == ("ben", "user")
        assert found["resumedBy"]["atMs"] >= found["createdAtMs"]
        assert '"triggeredBy":"ann"' in found["configJson"].replace(" ", "")
        rows = house.http.get(f"/v1/api/runs/{run_id}/events").json()["data"]
        begun = [row["payload"] for row in rows if row["event"] == "RunStarted"]
        assert ["resumedBy" in payload for payload in begun] == [False, True]
        assert begun[1]["resumedBy"]["triggeredBy"] == "ben"


# ── options of what others bring, or nobody has ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"hijack_pty": lambda: None}, "hijack_pty"),
        ({"browser": object()}, "browser"),
        ({"defaults": {"cliAgentTools": "explicit-only"}}, "defaults.cliAgentTools"),
        ({"defaults": {"cli_agent_tools": "none"}}, "defaults.cliAgentTools"),
        ({"defaults": {"other": 1}}, "defaults"),
        ({"defaults": {"outOfProcessEventBridge": "no"}}, "defaults"),
        ({"defaults": {"outOfProcessEventBridgePollMs": 0}}, "bridge_poll_ms"),
        ({"oneshot_monitor": {"attach": print}}, "oneshot_monitor"),
        ({"oneshot_monitor": {"attach": 1, "steer": 2, "restart": 3}}, "oneshot_monitor"),
    ],
)
def test_what_a_gateway_cannot_do_is_refused_when_it_is_made(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Gateway(**options)
    assert refused.value.details == {"field": field}


def test_defaults_count_where_an_option_is_not_given() -> None:
    usual = {"cliAgentTools": "all", "outOfProcessEventBridge": False, "outOfProcessEventBridgePollMs": 70}
    found = Gateway(defaults=usual).options
    assert (found.bridge, found.bridge_poll_ms) == (False, 70)
    found = Gateway(defaults=usual, out_of_process_event_bridge=True, out_of_process_event_bridge_poll_ms=80).options
    assert (found.bridge, found.bridge_poll_ms) == (True, 80)
    assert (Gateway().options.bridge, Gateway().options.bridge_poll_ms) == (True, 1_000)


def test_the_hosts_monitor_answers_its_routes(tmp_path: Path) -> None:
    asked: list[Mapping[str, object]] = []

    async def steer(given: Mapping[str, object]) -> object:
        asked.append(given)
        return {"queued": True}

    def plain(name: str) -> Callable[[Mapping[str, object]], object]:
        return lambda given: {"control": name, "runId": given["runId"]}

    monitor = {"attach": plain("attach"), "steer": steer, "restart": plain("restart")}
    with house_of(tmp_path, oneshot_monitor=monitor) as house:
        run_id = house.start("gated", until="waiting-approval")
        path = f"/v1/api/runs/{run_id}/oneshot-monitor"
        for name in ("attach", "restart"):
            assert house.http.post(f"{path}/{name}").json()["data"] == {"control": name, "runId": run_id}
        found = house.http.post(f"{path}/steer", json={"message": "left", "runId": "another"}).json()
        assert (found["ok"], found["data"], found["seq"] > 0) == (True, {"queued": True}, True)
        assert asked == [{"message": "left", "runId": run_id}]
        for body in ({}, {"message": " "}, {"message": 1}):
            refused = house.http.post(f"{path}/steer", json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "InvalidInput")
        assert house.http.post("/v1/api/runs/nobody/oneshot-monitor/attach").status_code == 404
