"""Lists of runs and approvals: what they hold, in which order, and that they read no more than they give."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smithers.control.control import Control
from smithers.control.run_lists import (
    attempt,
    attempts,
    descendants,
    list_runs,
    node_states,
    pending_approvals,
    resolve_key,
    run_record,
    schema_signature,
    stored_events,
    token_usage,
)
from smithers.errors import AttemptNotFound, RunNotFound
from smithers.events import EventDraft
from smithers.store import open_store
from smithers.store.interface import ApprovalRow, HumanRow, NewRun, SqlValue
from smithers.store.sql import control as writes
from smithers.store.sql import run_pages
from smithers.store.sql import statements as sql
from smithers.store.sql.run_pages import RunFilter
from smithers.store.sql.session import Session
from smithers.testing import VirtualClock

BOTH_DATABASES = True


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def control(db: str, clock: VirtualClock) -> Iterator[Control]:
    store = open_store(db, durability="normal")
    yield Control(store, clock=clock)
    store.close()


def new_run(run_id: str, at: int = 0, **given: object) -> NewRun:
    fields: dict[str, object] = {"workflow_name": "w", "workflow_path": None, **given}
    return NewRun(run_id=run_id, workflow_hash=None, input_json="{}", config_json="{}", owner=None, now_ms=at, **fields)  # type: ignore[arg-type]


def launch(control: Control, run_id: str, at: int = 0, **given: object) -> None:
    control.store.write(lambda c: writes.launch(c, new_run(run_id, at, **given)))


def execute(control: Control, text: str, *parameters: SqlValue) -> None:
    control.store.write(lambda c: c.execute(text, parameters).fetchall())


def append(control: Control, run_id: str, *events: EventDraft) -> None:
    control.store.write(lambda c: writes.append_events(c, run_id, 5, events))


def node(control: Control, run_id: str, node_id: str, state: str, iteration: int = 0, table: str | None = None) -> None:
    execute(control, "INSERT INTO _smithers_nodes (run_id, node_id, iteration, state, last_attempt, updated_at_ms, frame_no, "
            "output_table, label) VALUES (?, ?, ?, ?, 1, 3, 1, ?, ?)",
            run_id, node_id, iteration, state, table, f"label of {node_id}")  # fmt: skip


def ids(rows: list[dict[str, object]]) -> list[object]:
    return [row["runId"] for row in rows]


# ── runs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_runs_are_listed_newest_first_without_those_of_the_system(control: Control) -> None:
    for number in range(6):
        launch(control, f"r{number}", at=number // 2, is_system=number == 3)

    async def run() -> None:
        assert ids(await list_runs(control)) == ["r5", "r4", "r2", "r1", "r0"]
        assert ids(await list_runs(control, include_system=True)) == ["r5", "r4", "r3", "r2", "r1", "r0"]
        assert ids(await list_runs(control, limit=2, offset=1)) == ["r4", "r2"]
        assert ids(await list_runs(control, limit=2, cursor=(2, "r4"))) == ["r2", "r1"]
        assert ids(await list_runs(control, limit=0)) == ["r5"]

    asyncio.run(run())


def test_a_summary_has_the_row_and_where_the_run_comes_from(control: Control) -> None:
    started_by = {"harness": "ci", "detected": True}
    launch(control, "r", 7, workflow_key="k", is_system=True, started_by_json=json.dumps(started_by), parent_run_id="p")

    (found,) = asyncio.run(list_runs(control, include_system=True))

    assert (found["workflowKey"], found["system"], found["startedBy"]) == ("k", True, started_by)
    assert (found["createdAtMs"], found["parentRunId"], found["configJson"]) == (7, "p", "{}")


@pytest.mark.parametrize(
    ("key", "path", "registered", "wanted"),
    [
        ("k", "/a/file.py", ("w",), "k"),
        (None, "/a/file.py", ("w",), "w"),
        (None, "/a/file.py", (), "file"),
        (None, "/a/my.flow.py", ("other",), "my.flow"),
        (None, None, (), "w"),
    ],
)
def test_a_workflows_key_is_recorded_or_its_registered_name_or_its_files_or_its_own(
    control: Control, key: str | None, path: str | None, registered: tuple[str, ...], wanted: str
) -> None:
    launch(control, "r", workflow_path=path, workflow_key=key)

    async def run() -> None:
        (found,) = await list_runs(control, registered=registered)
        assert found["workflowKey"] == wanted
        assert ids(await list_runs(control, workflow_key=wanted, registered=registered)) == ["r"]
        assert await list_runs(control, workflow_key="x", registered=registered) == []

    asyncio.run(run())
    assert resolve_key(None, "", "", (), "owner") == "owner"


NAMES = st.sampled_from(["a", "b", "c"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runs=st.lists(st.tuples(NAMES, st.none() | NAMES, st.none() | NAMES, st.booleans(), st.integers(0, 4),
                            st.sampled_from(["running", "continued", "finished"]), st.sampled_from([None, "p"])), max_size=12),
    registered=st.sets(NAMES),
    status=st.sampled_from([None, "running", "finished", "nonsense"]),
    key=st.none() | NAMES,
    parent=st.sampled_from([None, "p"]),
    system=st.booleans(),
    limit=st.integers(1, 5),
    offset=st.integers(0, 3),
)  # fmt: skip
def test_every_filter_finds_what_a_look_at_each_run_finds(
    control: Control,
    runs: list[tuple[str, str | None, str | None, bool, int, str, str | None]],
    registered: set[str],
    status: str | None,
    key: str | None,
    parent: str | None,
    system: bool,
    limit: int,
    offset: int,
) -> None:
    execute(control, "DELETE FROM _smithers_run_specs")
    execute(control, "DELETE FROM _smithers_runs")
    wanted: list[tuple[int, str]] = []
    for number, (name, path, given_key, is_system, at, state, above) in enumerate(runs):
        file = None if path is None else f"/x/{path}.py"
        run = new_run(f"r{number}", at, workflow_name=name, workflow_path=file, workflow_key=given_key,
                      is_system=is_system, parent_run_id=above, status=state)  # fmt: skip
        control.store.write(partial(writes.launch, run=run))
        states = ("running", "continued") if status == "running" else (status,)
        if (
            (status is None or state in states)
            and (key is None or resolve_key(given_key, name, run.listed_as, registered) == key)
            and parent in (None, above)
            and (system or not is_system)
        ):
            wanted.append((at, run.run_id))
    wanted.sort(reverse=True)

    async def pages() -> None:
        given = {"status": status, "workflow_key": key, "parent_run_id": parent, "include_system": system}
        found = await list_runs(control, limit=limit, offset=offset, registered=registered, **given)  # type: ignore[arg-type]
        assert ids(found) == [run_id for _, run_id in wanted[offset : offset + limit]]
        both = await list_runs([control, control], limit=limit, offset=offset, registered=registered, **given)  # type: ignore[arg-type]
        assert both == found
        if offset < len(wanted):
            rest = await list_runs(control, cursor=wanted[offset], registered=registered, **given)  # type: ignore[arg-type]
            assert ids(rest) == [run_id for _, run_id in wanted[offset + 1 :]]

    asyncio.run(pages())


def test_runs_of_several_databases_are_one_list(control: Control, tmp_path: Path) -> None:
    other = Control(open_store(tmp_path / "other.db", durability="normal"), clock=control.clock)
    for number in range(4):
        launch(control if number % 2 else other, f"r{number}", number)
    launch(other, "r3", 3, workflow_name="copy")

    found = asyncio.run(list_runs([control, other], limit=3))

    assert [(run["runId"], run["workflowName"]) for run in found] == [("r3", "w"), ("r2", "w"), ("r1", "w")]
    other.store.close()


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "wanted",
    [
        RunFilter(),
        RunFilter(include_system=True),
        RunFilter(before=(5, "r")),
        RunFilter(statuses=("running", "continued")),
        RunFilter(statuses=("finished",), workflow_key="a", registered=("a", "b"), before=(5, "r")),
        RunFilter(workflow_key="a", registered=("a", "b")),
        RunFilter(workflow_key="a", registered=("b",), before=(5, "r")),
    ],
)
def test_a_page_of_runs_walks_an_index_in_order(control: Control, wanted: RunFilter) -> None:
    text, parameters = run_pages.run_page_sql(wanted)

    plans = explained(control, text, *parameters, 50, 0)

    assert [plan for plan in plans if "TEMP B-TREE" in plan or (plan.startswith("SCAN") and "INDEX" not in plan)] == []


def explained(control: Control, text: str, *parameters: SqlValue) -> list[str]:
    def query(c: Session) -> list[str]:
        return [str(row[3]) for row in c.execute(f"EXPLAIN QUERY PLAN {text}", parameters)]

    return control.store.read(query)


@pytest.mark.sqlite
def test_children_are_found_by_index(control: Control) -> None:
    text, parameters = run_pages.run_page_sql(RunFilter(parent_run_id="p"))

    assert not [plan for plan in explained(control, text, *parameters, 50, 0) if plan.startswith("SCAN")]


def test_a_run_that_goes_on_for_another_is_listed_as_that_one(control: Control) -> None:
    launch(control, "first", workflow_key="k", is_system=True, started_by_json='{"harness":"ci"}')
    control.store.write(lambda c: writes.launch(c, new_run("second", parent_run_id="first"), heir_of="first"))

    _, second = asyncio.run(list_runs(control, include_system=True))[::-1]

    assert (second["workflowKey"], second["system"], second["startedBy"]) == ("k", True, {"harness": "ci"})


# ── one run ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_record_counts_nodes_and_tells_the_state(control: Control) -> None:
    launch(control, "r", status="paused")
    for number, state in enumerate(["finished", "finished", "pending"]):
        node(control, "r", f"n{number}", state)

    found = asyncio.run(run_record(control, "r"))

    assert found["summary"] == {"finished": 2, "pending": 1}
    assert cast("dict[str, object]", found["runState"])["state"] == "paused"
    assert "failedChildren" not in found
    with pytest.raises(RunNotFound):
        asyncio.run(run_record(control, "x"))


def test_a_finished_run_tells_which_failures_it_tolerated(control: Control) -> None:
    launch(control, "r", status="finished")
    append(control, "r", EventDraft("RunFinished", None, None, '{"failedChildren":2,"failedChildKeys":["a","b"]}'))
    append(control, "r", EventDraft("RunStatusChanged", None, None, '{"status":"finished"}'))

    found = asyncio.run(run_record(control, "r"))

    assert (found["failedChildren"], found["failedChildKeys"]) == (2, ["a", "b"])


def test_a_run_that_waits_for_an_event_tells_for_which(control: Control) -> None:
    launch(control, "r", status="waiting-event")
    node(control, "r", "done", "finished")
    node(control, "r", "wait", "waiting-event")
    meta = json.dumps({"waitForEvent": {"signalName": "go", "correlationId": None}})
    execute(control, "INSERT INTO _smithers_attempts (run_id, node_id, iteration, attempt, state, frame_no, started_at_ms, "
            "meta_json) VALUES ('r', 'wait', 0, 1, 'waiting-event', 1, 1, ?)", meta)  # fmt: skip

    found = asyncio.run(run_record(control, "r"))

    blocked = cast("dict[str, dict[str, object]]", found["runState"])["blocked"]
    assert blocked == {"kind": "event", "nodeId": "wait", "correlationKey": "go"}


def test_descendants_are_listed_by_depth_and_a_circle_ends(control: Control) -> None:
    launch(control, "root", parent_run_id="far")
    for run_id, parent in [("a", "root"), ("b", "root"), ("aa", "a"), ("far", "aa"), ("other", "x")]:
        launch(control, run_id, parent_run_id=parent)

    async def run() -> None:
        found = await descendants(control, "root")
        assert [(row["runId"], row["depth"]) for row in found] == [
            ("root", 0),
            ("a", 1),
            ("b", 1),
            ("aa", 2),
            ("far", 3),
        ]
        assert found[0]["parentRunId"] == "far"
        assert ids(await descendants(control, "root", limit=2)) == ["root", "a"]
        with pytest.raises(RunNotFound):
            await descendants(control, "none")

    asyncio.run(run())


def test_token_usage_has_every_report_with_defaults(control: Control) -> None:
    launch(control, "r")
    full = {"attempt": 2, "model": "m", "agent": "a", "inputTokens": 1, "outputTokens": 2, "cacheReadTokens": 3,
            "cacheWriteTokens": 4, "reasoningTokens": 5}  # fmt: skip
    append(control, "r", EventDraft("NodeStarted", "n", 0), EventDraft("TokenUsageReported", "n", 1, json.dumps(full)))
    append(control, "r", EventDraft("TokenUsageReported"), EventDraft("TokenUsageReported", "n", 0, "{broken"))

    found = asyncio.run(token_usage(control, "r"))

    zero = dict.fromkeys(["inputTokens", "outputTokens", "cacheReadTokens", "cacheWriteTokens", "reasoningTokens"], 0)
    assert found == {
        "runId": "r",
        "events": [
            {**full, "nodeId": "n", "iteration": 1, "timestampMs": 5},
            {"nodeId": "unknown", "iteration": 0, "attempt": 0, "model": "unknown", "agent": "unknown", **zero, "timestampMs": 5},
        ],
    }  # fmt: skip


def test_node_states_have_the_times_of_the_latest_attempt(control: Control) -> None:
    launch(control, "r")
    node(control, "r", "n", "finished")
    node(control, "r", "m", "pending", 1)
    for no in (1, 2):
        execute(control, "INSERT INTO _smithers_attempts (run_id, node_id, iteration, attempt, state, frame_no, "
                "started_at_ms, finished_at_ms) VALUES ('r', 'n', 0, ?, 'finished', 1, ?, ?)", no, no, no + 5)  # fmt: skip

    async def run() -> None:
        first, second = await node_states(control, "r")
        assert (first["nodeId"], first["iteration"], first["startedAtMs"]) == ("m", 1, None)
        assert second == {"nodeId": "n", "iteration": 0, "state": "finished", "lastAttempt": 1, "updatedAtMs": 3,
                          "label": "label of n", "startedAtMs": 1, "finishedAtMs": 6}  # fmt: skip
        assert [row["attempt"] for row in await attempts(control, "r")] == [1, 2]
        assert [row["attempt"] for row in await attempts(control, "r", node_id="n")] == [2, 1]
        assert (await attempt(control, "r", "n", 0, 2))["cached"] is False
        with pytest.raises(AttemptNotFound):
            await attempt(control, "r", "n", 0, 3)

    asyncio.run(run())


def test_stored_events_go_on_after_a_number_and_the_newest_of_a_node_are_in_order(control: Control) -> None:
    launch(control, "r")
    append(control, "r", *(EventDraft("NodeStarted", f"n{i % 2}", 0, f'{{"attempt":{i}}}') for i in range(6)))

    async def run() -> None:
        first, *_ = found = await stored_events(control, "r", after=1, limit=3)
        assert [row["seq"] for row in found] == [2, 3, 4]
        assert first == {
            "runId": "r", "seq": 2, "event": "NodeStarted", "timestampMs": 5,
            "payload": {"type": "NodeStarted", "runId": "r", "timestampMs": 5, "nodeId": "n0", "iteration": 0, "attempt": 2},
        }  # fmt: skip
        assert [row["seq"] for row in await stored_events(control, "r", limit=2, node_id="n1")] == [3, 5]
        with pytest.raises(RunNotFound):
            await stored_events(control, "x")

    asyncio.run(run())


# ── approvals ──────────────────────────────────────────────────────────────────────────────────────────────────────


def ask(control: Control, run_id: str, node_id: str, at: int, **request: object) -> None:
    row = (
        *ApprovalRow(run_id, node_id, 0, "requested", "w", at, None, None, None, json.dumps(request), None, 0),
        0,
        None,
    )
    control.store.write(lambda c: c.execute(sql.ROWS["approval"], row).fetchall())
    node(control, run_id, node_id, "waiting-approval")


def ask_human(control: Control, run_id: str, node_id: str, at: int) -> None:
    row = (f"h:{run_id}:{node_id}", run_id, node_id, 0, "json", "Which one?", None, None, at, None, 0)
    control.store.write(lambda c: c.execute(sql.ROWS["human"], row).fetchall())
    node(control, run_id, node_id, "waiting-approval")


def test_open_approvals_and_human_tasks_are_listed_oldest_first(control: Control) -> None:
    launch(control, "r", status="waiting-approval", workflow_key="k")
    launch(control, "over", status="finished")
    ask(control, "r", "ship", 9, mode="select", title="Ship?", summary="s", options=[{"key": "a", "metadata": 1}],
        allowedScopes=["x"], allowedUsers=["anna"], autoApprove={"after": 3})  # fmt: skip
    ask(control, "r", "gate", 7)
    ask(control, "over", "late", 1)
    ask_human(control, "r", "pick", 8)

    async def run() -> None:
        gate, pick, ship = await pending_approvals(control)
        assert ship == {
            "runId": "r", "workflowKey": "k", "nodeId": "ship", "iteration": 0, "requestTitle": "Ship?",
            "requestSummary": "s", "requestedAtMs": 9, "approvalMode": "select", "options": [{"key": "a", "label": "a"}],
            "allowedScopes": ["x"], "allowedUsers": ["anna"], "autoApprove": {"after": 3},
        }  # fmt: skip
        assert (gate["requestTitle"], gate["approvalMode"], gate["autoApprove"]) == ("label of gate", "gate", None)
        assert (pick["nodeId"], pick["approvalMode"], pick["requestSummary"]) == ("pick", "decision", "Which one?")
        assert await pending_approvals(control, limit=2) == [gate, pick]
        assert len(await pending_approvals(control, run_id="r", workflow_key="k")) == 3
        assert await pending_approvals(control, run_id="over") == []
        assert await pending_approvals(control, workflow_key="x") == []

    asyncio.run(run())


@pytest.mark.sqlite
@pytest.mark.parametrize("kind", [ApprovalRow, HumanRow])
@pytest.mark.parametrize("key", [None, "k"])
def test_open_approvals_are_read_from_their_own_index(
    control: Control, kind: type[ApprovalRow] | type[HumanRow], key: str | None
) -> None:
    text, parameters = run_pages.pending_sql(kind, RunFilter(workflow_key=key, registered=("k", "l")), None)

    first, *others = explained(control, text, *parameters, 50)

    assert "_open" in first
    assert all(plan.startswith("SEARCH") for plan in others)


# ── the schema ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_signature_changes_when_a_table_does_and_only_then(control: Control) -> None:
    before = asyncio.run(schema_signature(control))
    launch(control, "r")
    same = asyncio.run(schema_signature(control))
    execute(control, 'CREATE TABLE "report" (run_id TEXT)')
    after = asyncio.run(schema_signature(control))

    assert str(before["schemaVersion"]) >= "0004"
    assert before == same
    assert after["signature"] != before["signature"]
    assert set(cast("dict[str, str]", after["components"])) - set(cast("dict[str, str]", before["components"])) == {
        "report"
    }
