"""`rewindRun` and `retryTask`, refused: each code of the contract, over every transport, with the run left as it was."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.conformance.gateway.contract import METHODS, hold, status_of
from tests.conformance.gateway.support import ROOT, TRANSPORTS, Answer, House, bearer, house_of, tokens
from tests.conformance.gateway.world import World

from smithers import Approval, Context, Element, Subflow, Task, Workflow, create_smithers
from smithers.components.workflow import SmithersWorkflow
from smithers.control.travel import audit as travelling
from smithers.gateway.auth.config import TokenAuth
from smithers.store.sql import audit, reads, travel

REPORT = METHODS["rewindRun"].payload["properties"]["effectBoundary"]


class Note(BaseModel):
    text: str


class Verdict(BaseModel):
    approved: bool


def hold_error(answer: Answer, method: str, code: str, transport: str) -> dict[str, Any]:
    """The error of an answer, which must be this one and one that the contract has."""
    assert answer.code == code, answer.frame
    assert code in METHODS[method].emits
    assert transport == "socket" or answer.status == status_of(code)
    assert answer.frame["error"]["message"]
    return dict(answer.frame["error"])


def as_it_was(house: House, run_id: str) -> object:
    """What a refusal must leave alone."""

    def query(c: reads.Session) -> object:
        run = reads.run(c, run_id)
        nodes = sorted((n.node_id, n.iteration, n.state, n.frame_no) for n in reads.nodes(c, run_id))
        return run.status, run.frame_no, run.next_seq, nodes

    return house.control.store.read(query)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"confirm": False}, "ConfirmationRequired"),
        ({"confirm": None}, "ConfirmationRequired"),
        ({"confirm": "true"}, "ConfirmationRequired"),
        ({"frameNo": 10_000}, "FrameOutOfRange"),
        ({"frameNo": -1}, "InvalidFrameNo"),
        ({"frameNo": 2**31}, "InvalidFrameNo"),
        ({"frameNo": "1"}, "InvalidFrameNo"),
        ({"runId": "no-such-run"}, "RunNotFound"),
        ({"runId": "Not An Id"}, "InvalidRunId"),
    ],
)
def test_a_rewind_that_is_not_meant_or_leads_nowhere_is_refused(
    world: World, wrong: dict[str, object], code: str, transport: str
) -> None:
    before = as_it_was(world.house, world.done)
    params = {"runId": world.done, "frameNo": 1, "confirm": True, **wrong}

    hold_error(world.house.call("rewindRun", params, transport), "rewindRun", code, transport)

    assert as_it_was(world.house, world.done) == before


def test_a_rewind_without_its_confirmation_is_refused(world: World) -> None:
    for transport in TRANSPORTS:
        answer = world.house.call("rewindRun", {"runId": world.done, "frameNo": 1}, transport)
        hold_error(answer, "rewindRun", "ConfirmationRequired", transport)


@contextmanager
def held(house: House, run_id: str) -> Generator[None]:
    """Somebody else is changing the run's history."""
    now = house.control.clock.now_ms()
    house.control.store.write(lambda c: travel.hold(c, run_id, "other", now, travelling.LEASE_MS))
    try:
        yield
    finally:
        house.control.store.write(lambda c: travel.let_go(c, run_id, "other", wakes=False))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_of_two_changes_of_a_history_at_once_one_is_refused(world: World, transport: str) -> None:
    with held(world.house, world.done):
        again = world.house.call("rewindRun", {"runId": world.done, "frameNo": 1, "confirm": True}, transport)
        retried = world.house.call("retryTask", {"runId": world.done, "nodeId": "a"}, transport)

    hold_error(again, "rewindRun", "Busy", transport)
    hold_error(retried, "retryTask", "RUN_ACTIVE", transport)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_caller_who_rewinds_too_often_is_told_until_when(world: World, transport: str) -> None:
    run_id = world.house.start("one", until="finished")
    frame, now = world.house.ok("frames.get", runId=run_id)["frameNo"], world.house.control.clock.now_ms()
    for _ in range(audit.MOST - 1):
        world.house.control.store.write(lambda c: audit.note(c, run_id, frame, 1, "gateway", now, "success", 1))
    assert world.house.call("rewindRun", {"runId": run_id, "frameNo": 1, "confirm": True}, transport).frame["ok"]
    world.house.until(run_id, "finished")
    before = as_it_was(world.house, run_id)

    answer = world.house.call("rewindRun", {"runId": run_id, "frameNo": 1, "confirm": True}, transport)

    error = hold_error(answer, "rewindRun", "RateLimited", transport)
    assert f"{audit.MOST} times" in error["message"]
    assert as_it_was(world.house, run_id) == before


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_task_of_a_run_at_work_is_not_done_again(world: World, transport: str) -> None:
    answer = world.house.call("retryTask", {"runId": world.busy(), "nodeId": "nap"}, transport)

    hold_error(answer, "retryTask", "RUN_ACTIVE", transport)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"runId": "no-such-run"}, "NOT_FOUND"),
        ({"nodeId": "zzz"}, "NOT_FOUND"),
        ({"iteration": 7}, "NOT_FOUND"),
        ({"nodeId": ""}, "INVALID_REQUEST"),
        ({"nodeId": 7}, "INVALID_REQUEST"),
        ({"iteration": -1}, "INVALID_REQUEST"),
    ],
)
def test_a_retry_of_what_is_not_there_is_refused(
    world: World, wrong: dict[str, object], code: str, transport: str
) -> None:
    before = as_it_was(world.house, world.done)

    answer = world.house.call("retryTask", {"runId": world.done, "nodeId": "a", **wrong}, transport)

    hold_error(answer, "retryTask", code, transport)
    assert as_it_was(world.house, world.done) == before


# ── effects ────────────────────────────────────────────────────────────────────────────────────────────────────────


def shop(db: Path) -> SmithersWorkflow:
    """A task that does something outside which nothing can undo."""
    smithers, outputs = create_smithers({"note": Note}, db=db)

    @smithers
    def buying(ctx: Context[dict[str, object]]) -> Element:
        return Workflow(name="buying")[
            Task(id="look", output=outputs.note)[lambda: {"text": "seen"}],
            Task(id="buy", output=outputs.note, side_effect=True)[lambda: {"text": "bought"}],
        ]

    return buying


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("shop")
    with house_of(folder, register={"buying": {"workflow": shop(folder / "gateway.db")}}) as house:
        yield house


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("method", ["rewindRun", "retryTask"])
def test_what_cannot_be_undone_blocks_with_a_report_unless_it_is_forced(
    store: House, method: str, transport: str
) -> None:
    run_id = store.start("buying", until="finished")
    before = as_it_was(store, run_id)
    params: dict[str, object] = {"runId": run_id, "frameNo": 1, "confirm": True}
    if method == "retryTask":
        params = {"runId": run_id, "nodeId": "buy"}

    answer = store.call(method, params, transport)

    assert (answer.code, status_of("TIME_TRAVEL_SIDE_EFFECT_BLOCKED")) == ("TIME_TRAVEL_SIDE_EFFECT_BLOCKED", 409)
    assert transport == "socket" or answer.status == 409
    details = answer.frame["error"]["details"]
    hold(details["report"], REPORT, "the report")
    (effect,) = details["report"]["blocking"]
    assert (effect["nodeId"], effect["kind"], effect["effectStatus"]) == ("buy", "task", "succeeded")
    assert as_it_was(store, run_id) == before
    if method == "rewindRun":
        forced = store.call(method, {**params, "force": True}, transport).payload
        hold(forced, METHODS[method].payload, method)
        assert forced["effectBoundary"] == details["report"]


def nested(db: Path) -> SmithersWorkflow:
    """A subflow that waits for an approval."""
    smithers, outputs = create_smithers({"note": Note, "verdict": Verdict}, db=db)

    @smithers
    def inner(ctx: Context[dict[str, object]]) -> Element:
        return Workflow(name="inner")[
            Task(id="look", output=outputs.note)[lambda: {"text": "seen"}],
            Approval(id="ok", output=outputs.verdict, request={"title": "Ok?"}),
        ]

    @smithers
    def outer(ctx: Context[dict[str, object]]) -> Element:
        return Workflow(name="outer")[Subflow(id="sub", workflow=inner, output=outputs.note)]

    return outer


def test_the_run_of_a_subflow_goes_on_with_its_parent(tmp_path: Path) -> None:
    with house_of(tmp_path, register={"outer": {"workflow": nested(tmp_path / "gateway.db")}}) as house:
        run_id = f"{house.start('outer', until='waiting-approval')}:child:sub:0"

        house.ok("rewindRun", runId=run_id, frameNo=1, confirm=True)

        house.until(run_id, "waiting-approval")
        assert house.ok("resumeRun", runId=run_id)["status"] == "resume_requested"


# ── rights ─────────────────────────────────────────────────────────────────────────────────────────────────────────

GRANTS = {
    "t:viewer": ["run:read", "observability:read"],
    "t:writer": ["run:read", "run:write"],
    "t:stranger": ["run:read", "run:write", "run:admin"],
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house_of(tmp_path_factory.mktemp("guarded"), auth=tokens(GRANTS)) as house:
        yield house


@pytest.mark.parametrize(
    ("token", "method", "code"),
    [
        ("t:viewer", "rewindRun", "FORBIDDEN"),
        ("t:viewer", "retryTask", "FORBIDDEN"),
        ("t:writer", "rewindRun", "FORBIDDEN"),
        ("t:stranger", "rewindRun", "Unauthorized"),
        ("nobody", "rewindRun", "UNAUTHORIZED"),
    ],
)
def test_who_may_not_change_a_history_is_refused(guarded: House, token: str, method: str, code: str) -> None:
    run_id = guarded.start("one", until="finished")
    before = as_it_was(guarded, run_id)
    params = (
        {"runId": run_id, "frameNo": 1, "confirm": True} if method == "rewindRun" else {"runId": run_id, "nodeId": "a"}
    )

    over_http = guarded.post(f"/v1/rpc/{method}", json.dumps(params), bearer(token))

    hold_error(over_http, method, code, "bare")
    if code == "FORBIDDEN":
        assert over_http.frame["error"]["requiredScope"] == METHODS[method].scope
    if token != "nobody":
        with guarded.socket(token) as socket:
            hold_error(socket.call(method, params), method, code, "socket")
    assert as_it_was(guarded, run_id) == before


def test_a_run_launched_with_a_token_that_names_nobody_is_that_tokens(tmp_path: Path) -> None:
    grant = {"role": "operator", "scopes": ["*"]}
    with house_of(tmp_path, auth=TokenAuth(dict.fromkeys((ROOT, "t:one", "t:two"), grant))) as house:
        params = {"workflow": "one"}
        launched = house.post("/v1/rpc/launchRun", json.dumps(params), bearer("t:one"))
        run_id = launched.frame["payload"]["runId"]
        house.until(run_id, "finished")
        body = json.dumps({"runId": run_id, "frameNo": 1, "confirm": True})

        other = house.post("/v1/rpc/rewindRun", body, bearer("t:two"))
        own = house.post("/v1/rpc/rewindRun", body, bearer("t:one"))

    hold_error(other, "rewindRun", "Unauthorized", "bare")
    assert own.frame["ok"] is True


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("confirm", [1, 1.0, "true", [True], {"true": True}])
def test_only_true_is_a_confirmation(world: World, transport: str, confirm: object) -> None:
    params = {"runId": world.done, "frameNo": 1, "confirm": confirm}

    answer = world.house.call("rewindRun", params, transport)

    hold_error(answer, "rewindRun", "ConfirmationRequired", transport)


def test_a_frame_without_a_tree_of_its_own_has_the_one_before(world: World) -> None:
    newest = world.house.ok("getDevToolsSnapshot", runId=world.done)["frameNo"]
    rows = {row["frameNo"]: row for row in world.house.ok("frames.list", runId=world.done)}
    assert newest not in rows

    found = world.house.ok("frames.get", runId=world.done, frameNo=newest)

    hold(found, METHODS["frames.get"].payload, "frames.get")
    assert (found["frameNo"], found["xmlHash"]) == (newest, rows[max(rows)]["xmlHash"])
    beyond = world.house.call("frames.get", {"runId": world.done, "frameNo": newest + 1}, "bare")
    hold_error(beyond, "frames.get", "NOT_FOUND", "bare")


def test_whoever_has_launched_a_run_may_rewind_it(guarded: House) -> None:
    with guarded.socket("t:stranger") as socket:
        run_id = socket.call("launchRun", {"workflow": "one"}).payload["runId"]
        guarded.until(run_id, "finished")

        found = socket.call("rewindRun", {"runId": run_id, "frameNo": 1, "confirm": True}).payload

    hold(found, METHODS["rewindRun"].payload, "rewindRun")
