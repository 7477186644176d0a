"""What another implementation of this contract gets wrong, and this one must not: launches, ids, lists, and who is told what."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.gateway.contract import CONTRACT, METHODS, hold, hold_frame
from tests.conformance.gateway.flows import workflows
from tests.conformance.gateway.support import House, Json, bearer, eventually, house_of, tokens
from tests.conformance.gateway.world import World

from smithers.store.sql import reads


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    grants = {"ann": ["*"], "ben": ["*"], "reader": ["run:read"], "cron": ["cron:read", "cron:write"], "none": []}
    with House(tmp_path_factory.mktemp("guarded"), auth=tokens(grants), heartbeat_ms=50) as found:
        yield found


# ── launches ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("transport", ["bare", "socket"])
@pytest.mark.parametrize("input", [{}, {"size": "large"}, {"size": None}, {"size": 1e400}, {"size": [[[1]]]}])
def test_a_launch_with_a_wrong_input_is_refused_and_leaves_no_run(
    world: World, transport: str, input: dict[str, object]
) -> None:
    before = world.stored()
    answer = world.house.call("launchRun", {"workflow": "strict", "input": input}, transport)
    assert (answer.status, answer.code) == (400, "INVALID_INPUT")
    assert world.changes_since(before) == {}


def test_an_input_that_is_too_large_is_refused(tmp_path: Path) -> None:
    parts = {f"k{i}": "x" * 16_000 for i in range(66)}
    with house_of(tmp_path, max_body_bytes=4_000_000) as house:
        answer = house.call("launchRun", {"workflow": "one", "input": parts})
        assert (answer.status, answer.code) == (400, "INVALID_INPUT")
        assert house.ok("listRuns") == []


def test_a_run_can_be_read_from_the_moment_of_the_answer(house: House) -> None:
    with house.socket() as socket:
        for number in range(20):
            run_id = socket.call("launchRun", {"workflow": "one"}).payload["runId"]
            read = house.call("getRun", {"runId": run_id}, "bare" if number % 2 else "socket")
            assert read.payload["runId"] == run_id
            assert run_id in [run["runId"] for run in house.ok("listRuns")]


def test_an_unknown_workflow_is_not_found(world: World) -> None:
    before = world.stored()
    for name in ("launchRun", "cronRun"):
        assert world.house.call(name, {"workflow": "nothing"}).code == "NOT_FOUND"
    assert world.house.call("cronCreate", {"workflow": "nothing", "pattern": "* * * * *"}).code == "NOT_FOUND"
    assert world.house.call("cronRun", {"cronId": "nothing"}).code == "NOT_FOUND"
    assert world.changes_since(before) == {}


def test_a_used_run_id_is_never_taken_again(world: World) -> None:
    running, waiting, cancelled = world.busy(), world.gate(), world.gate()
    world.house.ok("cancelRun", runId=cancelled)
    world.house.until(cancelled, "cancelled")
    for run_id in (world.done, world.failed, running, waiting, cancelled):
        before = world.stored()["_smithers_events"]
        for params in ({"options": {"runId": run_id}}, {"runId": run_id}):
            answer = world.house.call("launchRun", {"workflow": "one", **params})
            assert (answer.status, answer.code) == (409, "CONFLICT"), run_id
        rerun = world.house.call("runs.rerun", {"runId": world.done, "newRunId": run_id})
        assert (rerun.status, rerun.code) == (409, "CONFLICT")
        assert world.stored()["_smithers_events"] == before


@pytest.mark.parametrize(
    "run_id",
    [
        "",
        " ",
        "UPPER",
        "a/b",
        "..",
        ".hidden",
        "a b",
        "a\n",
        "a\x00b",
        "é",
        "x" * 65,
        "x" * 257,
        "a:b",
        "a:child:b",
        "a:child:b:",
    ],
)
def test_a_run_id_that_could_not_be_asked_for_is_refused(world: World, run_id: str) -> None:
    before = world.stored()
    for params in ({"runId": run_id}, {"options": {"runId": run_id}}):
        answer = world.house.call("launchRun", {"workflow": "one", **params})
        assert (answer.status, answer.code) == (400, "INVALID_REQUEST")
    assert world.changes_since(before) == {}


def test_launches_beyond_the_limit_are_refused_and_leave_no_run(tmp_path: Path) -> None:
    with house_of(tmp_path, max_active_runs=2, max_queued_runs=0) as house:
        first, _ = house.start("slow"), house.start("slow", None)
        again = house.call("launchRun", {"workflow": "slow", "options": {"runId": "third", "idempotencyKey": "k"}})
        assert (again.status, again.code) == (429, "QUOTA_EXCEEDED")
        assert house.call("getRun", {"runId": "third"}).code == "NOT_FOUND"
        house.ok("cancelRun", runId=first)
        house.until(first, "cancelled")
        assert house.ok("launchRun", workflow="slow", options={"runId": "third", "idempotencyKey": "k"})
        assert (
            house.ok("launchRun", workflow="slow", options={"runId": "third", "idempotencyKey": "k"})["runId"]
            == "third"
        )


def test_many_launches_at_once_do_not_get_past_the_limit(tmp_path: Path) -> None:
    with house_of(tmp_path, max_active_runs=5, max_queued_runs=0) as house, house.socket() as socket:
        sent = [socket.send("launchRun", {"workflow": "slow"}) for _ in range(40)]
        codes = [socket.answer(request_id).code for request_id in sent]
        assert sorted(codes, key=str) == [None] * 5 + ["QUOTA_EXCEEDED"] * 35


# ── events ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_event_is_told_once_with_its_node_iteration_attempt_and_time(house: House) -> None:
    run_id = house.name()
    with house.socket(subscribe=[run_id]) as plain, house.socket(subscribe=["another"]) as streaming:
        plain.call("launchRun", {"workflow": "gated", "options": {"runId": run_id}})
        opened = streaming.call("streamRunEvents", {"runId": run_id, "afterSeq": 0}).payload
        hold(opened, METHODS["streamRunEvents"].payload, "streamRunEvents")
        plain.event("approval.requested")
        house.ok("submitApproval", runId=run_id, nodeId="ship", approved=True)
        for socket in (plain, streaming):
            socket.event(
                "run.completed" if socket is plain else "run.event",
                lambda p: p.get("event", "run.completed") == "run.completed",
            )
        assert plain.call("health").status == 200

    told = [(f["event"], f["payload"]) for f in plain.events if f["payload"].get("runId") == run_id]
    streamed = [f["payload"] for f in streaming.events if f["event"] == "run.event"]
    assert [(p["event"], p["payload"]) for p in streamed] == told
    assert not [
        f for f in streaming.events if f["event"].startswith(("node.", "approval.")) and f["payload"]["runId"] == run_id
    ]
    assert [p["seq"] for p in streamed] == sorted({p["seq"] for p in streamed})
    assert [f["seq"] for f in plain.events] == list(range(1, len(plain.events) + 1))
    for name, payload in told:
        if name in CONTRACT["events"]:
            hold(payload, CONTRACT["events"][name], name)
        if name.startswith(("node.", "approval.")):
            assert payload["iteration"] == 0
        if name in ("node.started", "node.finished") and payload["nodeId"] != "ship":
            assert payload["attempt"] == 1
    for frame in streamed:
        hold(frame, CONTRACT["events"]["run.event"], "run.event")
    wanted = [("approval.requested", "ship"), ("approval.decided", "ship"), ("run.completed", None)]
    wanted += [("node.started", "a"), ("node.finished", "a"), ("node.started", "b"), ("node.finished", "b")]
    names = [(name, payload.get("nodeId")) for name, payload in told]
    assert {event: names.count(event) for event in wanted} == dict.fromkeys(wanted, 1)
    stored = house.http.get(f"/v1/api/runs/{run_id}/events?limit=1000").json()["data"]
    assert all(row["timestampMs"] > 1_700_000_000_000 for row in stored)


def test_a_decision_and_a_cancellation_are_told_once_each(house: House) -> None:
    for is_cancelled in (True, False):
        run_id = house.start("gated", until="waiting-approval")
        with house.socket(subscribe=[run_id]) as socket:
            if is_cancelled:
                house.ok("cancelRun", runId=run_id)
            else:
                house.ok("submitApproval", runId=run_id, nodeId="ship", approved=False)
            socket.event("run.completed")
            assert socket.call("health").status == 200
            told = [f["event"] for f in socket.events]
            assert told.count("run.completed") == 1
            # a cancellation decides what was open, too
            assert told.count("approval.decided") == 1


# ── lists ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A gateway whose database has one run that waits for a decision, and 2,000 that are newer."""
    with House(tmp_path_factory.mktemp("crowd"), auth=tokens({"reader": ["run:read"]})) as house:
        run_id = house.ok("launchRun", workflow="gated", options={"runId": "oldest"})["runId"]
        house.until(run_id, "waiting-approval")
        done = house.start("one", until="finished")
        house.run(house.control.store.awrite(partial(_multiply, run_id=done, times=2_000)))
        yield house


def _multiply(connection: reads.Session, run_id: str, times: int) -> None:
    for table in ("_smithers_runs", "_smithers_run_specs"):
        names = [str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")]
        values = connection.execute(f"SELECT * FROM {table} WHERE run_id = ?", (run_id,)).fetchall()[0]
        row = dict(zip(names, values, strict=True))
        marks = ", ".join("?" * len(names))
        for number in range(times):
            later = int(str(row["created_at_ms"])) + number // 3 + 1
            copy = {**row, "run_id": f"copy-{number:05}", "created_at_ms": later}
            connection.execute(f"INSERT INTO {table} VALUES ({marks})", tuple(copy.values()))


def test_an_open_approval_stays_in_the_list_however_many_runs_are_newer(crowd: House) -> None:
    for params in ({}, {"filter": {"workflow": "gated"}}, {"filter": {"runId": "oldest"}}, {"limit": 1}):
        assert [row["runId"] for row in crowd.ok("listApprovals", **params)] == ["oldest"]
    hello = crowd.socket("reader")
    with hello:
        payload = hello.connect("reader").payload
    hold_frame(payload, "hello")
    assert [row["runId"] for row in payload["snapshot"]["approvals"]] == ["oldest"]
    assert [row["runId"] for row in payload["snapshot"]["runs"]] == ["oldest"]


def test_lists_are_bounded_and_a_cursor_goes_through_all_of_them_once(crowd: House) -> None:
    assert len(crowd.ok("listRuns")) == 50
    assert len(crowd.ok("listRuns", filter={"limit": 10**15})) == 1000
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while page := crowd.ok("listRuns", filter={"limit": 300, **cursor}):
        seen += [run["runId"] for run in page]
        cursor = {"cursor": f"{page[-1]['createdAtMs']}:{page[-1]['runId']}"}
    assert len(seen) == len(set(seen)) == 2_002
    assert seen[-1] == "oldest"


def test_system_runs_do_not_shorten_a_page(tmp_path: Path) -> None:
    flows = workflows(tmp_path / "gateway.db")
    register = {"one": {"workflow": flows["one"]}, "hidden": {"workflow": flows["gated"], "system": True}}
    with house_of(tmp_path, register=register) as house:
        shown = {house.start("one") for _ in range(3)}
        hidden = {house.start("hidden") for _ in range(3)}
        assert {run["runId"] for run in house.ok("listRuns", filter={"limit": 3})} == shown
        assert {run["runId"] for run in house.ok("listRuns", filter={"includeSystem": True})} == shown | hidden
        assert [w["key"] for w in house.ok("listWorkflows")] == ["one"]
        assert {w["key"]: w["system"] for w in house.ok("listWorkflows", includeSystem=True)} == {
            "one": False,
            "hidden": True,
        }


# ── who is told what ───────────────────────────────────────────────────────────────────────────────────────────────


def test_who_may_not_read_runs_is_told_nothing_of_them(guarded: House) -> None:
    run_id = guarded.start("gated", until="waiting-approval")
    with guarded.socket("cron") as blind, guarded.socket("none") as stranger, guarded.socket("reader") as reader:
        for socket, token in ((blind, "cron"), (stranger, "none"), (reader, "reader")):
            hello = socket.connect(token).payload
            hold_frame(hello, "hello")
            runs = [run["runId"] for run in hello["snapshot"]["runs"]]
            approvals = [row["runId"] for row in hello["snapshot"]["approvals"]]
            assert (run_id in runs, run_id in approvals) == (token == "reader",) * 2
            assert token == "reader" or not runs + approvals
            assert (
                hello["auth"]["scopes"]
                == {"cron": ["cron:read", "cron:write"], "none": [], "reader": ["run:read"]}[token]
            )
        fresh = guarded.start("one")
        reader.event("run.completed", lambda p: p["runId"] == fresh)
        guarded.do(lambda: guarded.behind._triggered("c", "one", fresh))
        blind.event("cron.triggered")
        for socket in (blind, stranger, reader):
            socket.event("tick")
            socket.call("health")
        told = {name: {f["event"] for f in s.events} for name, s in (("blind", blind), ("stranger", stranger))}
        assert told == {
            "blind": {"connect.challenge", "tick", "cron.triggered"},
            "stranger": {"connect.challenge", "tick"},
        }
        assert "cron.triggered" not in {f["event"] for f in reader.events}


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_token_that_ends_takes_its_open_sockets_with_it(guarded: House, how: str) -> None:
    auth: Any = guarded.gateway.options.auth
    grant: dict[str, object] = {"role": "user", "scopes": ["*"]}
    if how == "expired":
        grant["expiresAtMs"] = int(time.time() * 1000) + 2_000
    guarded.do(lambda: auth.grant(f"brief-{how}", grant))
    with guarded.socket(f"brief-{how}") as socket, guarded.socket("reader") as other:
        assert socket.call("health").status == 200
        if how == "revoked":
            guarded.do(lambda: auth.revoke(f"brief-{how}"))
        assert socket.until_closed() == 1008
        assert other.call("health").status == 200
    answer = guarded.http.post("/v1/rpc/health", content="{}", headers=bearer(f"brief-{how}"))
    assert (answer.status_code, answer.json()["error"]["refresh"]) == (401, "smithers token issue")


def test_an_approval_may_be_for_some_people_only(guarded: House) -> None:
    run_id = guarded.start("gated", until="waiting-approval")
    params = {"runId": run_id, "nodeId": "ship", "approved": True}
    assert (
        guarded.post(
            "/v1/rpc/submitApproval", str(params).replace("'", '"').replace("True", "true"), bearer("reader")
        ).code
        == "FORBIDDEN"
    )
    assert guarded.status(run_id) == "waiting-approval"


def test_two_racing_decisions_have_one_winner(house: House) -> None:
    run_id = house.start("gated", until="waiting-approval")
    with house.socket() as socket:
        sent = [
            socket.send("submitApproval", {"runId": run_id, "nodeId": "ship", "approved": bool(number % 2)})
            for number in range(10)
        ]
        codes = [socket.answer(request).code for request in sent]
    assert sorted(codes, key=str) == ["AlreadyDecided"] * 9 + [None]


def test_choices_are_held_to_what_was_offered(house: House) -> None:
    run_id = house.start("choosing", until="waiting-approval")

    def decide(node: str, decision: Json) -> str | None:
        return house.call(
            "submitApproval", {"runId": run_id, "nodeId": node, "approved": True, "decision": decision}
        ).code

    wrong: Json
    for wrong in ({}, {"selected": "c"}, {"selected": 1}, {"value": {"selected": "c"}}):
        assert decide("pick", wrong) == "INVALID_REQUEST", wrong
    assert decide("pick", {"selected": "b"}) is None
    eventually(lambda: house.ok("listApprovals", runId=run_id) or None, "the next question")
    wrong_ranks: list[object] = [None, [], ["a"], ["a", "a"], ["a", "b", "c"], 1]
    for ranked in wrong_ranks:
        assert decide("order", {"ranked": ranked}) == "INVALID_REQUEST", ranked
    assert decide("order", {"ranked": ["b", "a"]}) is None
    house.until(run_id, "finished")
    assert house.ok("getNodeOutput", runId=run_id, nodeId="pick")["row"]["selected"] == "b"
    assert house.ok("getNodeOutput", runId=run_id, nodeId="order")["row"]["ranked"] == ["b", "a"]


def test_decisions_and_signals_about_nothing_are_refused(world: World) -> None:
    def code(method: str, **params: object) -> str | None:
        return world.house.call(method, params).code

    before = world.stored()
    assert code("submitApproval", runId="none", nodeId="x", approved=True) == "NOT_FOUND"
    assert code("submitApproval", runId=world.asking, nodeId="x", approved=True) == "NOT_FOUND"
    assert code("submitApproval", runId=world.asking, nodeId="a", approved=True) == "INVALID_INPUT"
    assert code("submitApproval", runId=world.asking, nodeId="ship", iteration=1, approved=True) == "NOT_FOUND"
    assert code("submitApproval", runId=world.asking, nodeId="ship") == "INVALID_REQUEST"
    assert code("submitApproval", runId=world.done, nodeId="a", approved=True) == "INVALID_INPUT"
    assert code("submitSignal", runId="none", correlationKey="k") == "NOT_FOUND"
    assert code("submitSignal", runId=world.asking) == "INVALID_REQUEST"
    assert code("submitSignal", runId=world.asking, signalName=" ") == "INVALID_INPUT"
    # the contract keeps signals for ended runs; nobody would ever read them, so the sender is told
    assert code("submitSignal", runId=world.done, correlationKey="k") == "RUN_NOT_ACTIVE"
    assert code("cancelRun", runId="none") == "RunNotFound"
    assert code("cancelRun", runId=world.done) == "RUN_NOT_ACTIVE"
    assert code("pauseRun", runId=world.asking) == "RUN_NOT_ACTIVE"
    assert code("resumeRun", runId="none") == "NOT_FOUND"
    assert world.changes_since(before) == {}
    assert world.house.ok("resumeRun", runId=world.done)["status"] == "already_terminal"
