"""A database from before time travel: its rows are dated by the log, so its runs can be taken back too."""

from __future__ import annotations

import shutil
from importlib.resources import as_file, files
from pathlib import Path

from smithers.store import open_store
from smithers.store.interface import SqlValue
from smithers.store.sql import history, reads
from smithers.store.sql.session import Session
from smithers.store.sqlite.database import Database

EVENTS: tuple[tuple[int, str, str | None], ...] = (
    (0, "RunStarted", None),
    (1, "NodePending", "a"),
    (1, "NodePending", "ship"),
    (1, "NodeStarted", "a"),
    (2, "NodeFinished", "a"),
    (2, "ApprovalRequested", "ship"),
    (2, "NodeWaitingApproval", "ship"),
    (2, "ApprovalGranted", "ship"),
    (3, "NodeFinished", "ship"),
    (3, "RunFinished", None),
)


def fill(c: Session) -> None:
    """A run of a task and an approval, as the version before has left it."""

    def row(table: str, **values: SqlValue) -> None:
        names = ", ".join(("run_id", *values))
        marks = ", ".join("?" for _ in range(len(values) + 1))
        c.execute(f"INSERT INTO _smithers_{table} ({names}) VALUES ({marks})", ("r", *values.values()))

    row("runs", workflow_name="w", status="finished", created_at_ms=0, frame_no=3, next_seq=len(EVENTS))
    row("run_specs", input_json="{}", config_json="{}")
    for seq, (frame_no, type, node_id) in enumerate(EVENTS):
        iteration = None if node_id is None else 0
        row("events", seq=seq, timestamp_ms=seq, frame_no=frame_no, type=type, node_id=node_id, iteration=iteration)
    for node_id, frame_no in (("a", 2), ("ship", 3)):
        done: dict[str, SqlValue] = {"state": "finished", "frame_no": frame_no}
        row("nodes", node_id=node_id, iteration=0, updated_at_ms=frame_no, last_attempt=1, output_seq=frame_no, **done)
    row(
        "attempts", node_id="a", iteration=0, attempt=1, state="finished", frame_no=1, started_at_ms=3, finished_at_ms=4
    )
    row(
        "approvals", node_id="ship", iteration=0, status="approved", workflow_name="w", requested_at_ms=5, decided_at_ms=7,
        request_json="{}",
    )  # fmt: skip
    row("ralph", ralph_id="l", iteration=2, done=1, updated_at_ms=4, frame_no=2)


def test_the_past_of_runs_from_before_is_told_by_their_log(tmp_path: Path) -> None:
    with as_file(files("smithers.store.sqlite") / "migrations") as folder:
        before = tmp_path / "before"
        shutil.copytree(folder, before, ignore=lambda _, names: [name for name in names if name >= "0005"])
    old = Database.open(tmp_path / "runs.db", migrations=before)
    old.write(fill)
    old.close()

    store = open_store(tmp_path / "runs.db")
    try:
        states = [
            {node.node_id: node.state for node in store.read(lambda c, n=n: history.nodes_at(c, "r", n))}  # type: ignore[misc]
            for n in range(4)
        ]
        assert states == [
            {},
            {"a": "in-progress", "ship": "pending"},
            {"a": "finished", "ship": "waiting-approval"},
            {"a": "finished", "ship": "finished"},
        ]
        (attempt,) = store.read(lambda c: history.attempts_at(c, "r", 1))
        assert (attempt.state, attempt.finished_at_ms) == ("in-progress", None)
        approvals = [store.read(lambda c, n=n: history.approvals_at(c, "r", n)) for n in range(4)]  # type: ignore[misc]
        assert [[a.status for a in found] for found in approvals] == [[], [], ["approved"], ["approved"]]
        assert [loop.iteration for loop in store.read(lambda c: reads.loops(c, "r"))] == [2]
        assert store.read(lambda c: history.loops_at(c, "r", 1)) == []
    finally:
        store.close()
