"""Checkpoints: which commits hold the files of a run's folders, the folders themselves, and differences that were computed.

The row of an attempt's checkpoint is written in the step that takes the attempt in (`statements.ROWS`), all others here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from smithers.store.interface import SqlValue
from smithers.store.sql import statements as sql
from smithers.store.sql.lineage import is_child
from smithers.store.sql.session import Session

ATTEMPT: Final = "attempt"
SAFETY: Final = "safety"


class WorkspaceRow(NamedTuple):
    """A folder that tasks of a run work in."""

    run_id: str
    cwd: str
    vcs_type: str | None
    vcs_root: str | None
    git_dir: str | None
    base_ref: str | None
    base_tree: str | None
    problem: str | None
    is_worktree: int
    branch: str | None
    launch_root: str | None
    created_at_ms: int
    removed_at_ms: int | None


class CheckpointRow(NamedTuple):
    """The files of a folder after an attempt, or why they are not stored. One made for safety has no node."""

    run_id: str
    node_id: str
    iteration: int
    attempt: int
    seq: int
    position: int
    frame_no: int
    cwd: str
    commit_id: str | None
    tree_id: str | None
    problem: str | None
    source: str
    label: str | None
    created_at_ms: int


_WORKSPACE: Final = ", ".join(WorkspaceRow._fields)
_CHECKPOINT: Final = ", ".join(CheckpointRow._fields)
_ADD: Final = f"""
INSERT INTO _smithers_workspaces ({_WORKSPACE}) VALUES ({", ".join("?" for _ in WorkspaceRow._fields)})
ON CONFLICT (run_id, cwd) DO NOTHING
"""
_BASE: Final = """
UPDATE _smithers_workspaces SET vcs_type = coalesce(?, vcs_type), vcs_root = coalesce(?, vcs_root),
    git_dir = coalesce(?, git_dir), base_ref = ?, base_tree = ?, problem = ?
WHERE run_id = ? AND cwd = ? AND base_ref IS NULL
"""
_CACHE: Final = """
INSERT INTO _smithers_node_diffs (run_id, node_id, iteration, base_ref, target_ref, diff_json, computed_at_ms, size_bytes)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (run_id, node_id, iteration, base_ref) DO UPDATE SET target_ref = excluded.target_ref,
    diff_json = excluded.diff_json, computed_at_ms = excluded.computed_at_ms, size_bytes = excluded.size_bytes
"""


def add_workspace(connection: Session, row: WorkspaceRow) -> WorkspaceRow:
    """Note a folder of a run, as it was when that first came to it. The row that counts: one that was there stays, and
    gets its base, or the reason why there is none, if it had no base."""
    connection.execute(_ADD, row)
    facts = (row.vcs_type, row.vcs_root, row.git_dir, row.base_ref, row.base_tree, row.problem)
    connection.execute(_BASE, (*facts, row.run_id, row.cwd))
    found = workspace(connection, row.run_id, row.cwd)
    assert found is not None
    return found


def add_worktree(connection: Session, row: WorkspaceRow) -> None:
    """Note a worktree that was made for a run; once more if it was gone meanwhile."""
    connection.execute(_ADD, row)
    connection.execute(
        "UPDATE _smithers_workspaces SET is_worktree = 1, branch = ?, launch_root = ?, removed_at_ms = NULL "
        "WHERE run_id = ? AND cwd = ?",
        (row.branch, row.launch_root, row.run_id, row.cwd),
    )


def workspace(connection: Session, run_id: str, cwd: str) -> WorkspaceRow | None:
    """One folder of a run."""
    found = connection.execute(
        f"SELECT {_WORKSPACE} FROM _smithers_workspaces WHERE run_id = ? AND cwd = ?", (run_id, cwd)
    ).fetchone()
    return None if found is None else WorkspaceRow(*found)


def workspaces(connection: Session, run_id: str) -> list[WorkspaceRow]:
    """The folders of a run, worktrees last, in the order in which it came to them."""
    rows = connection.execute(
        f"SELECT {_WORKSPACE} FROM _smithers_workspaces WHERE run_id = ? ORDER BY is_worktree, created_at_ms, cwd",
        (run_id,),
    )
    return [WorkspaceRow(*row) for row in rows]


def workspaces_left(connection: Session, run_id: str) -> list[WorkspaceRow]:
    """The folders of runs that are gone: of this one, and of its subflows' that a rewind or a reset has removed."""
    rows = connection.execute(
        f"SELECT {_WORKSPACE} FROM _smithers_workspaces w WHERE NOT EXISTS "
        "(SELECT 1 FROM _smithers_runs r WHERE r.run_id = w.run_id)"
    )
    found = [WorkspaceRow(*row) for row in rows]
    return [row for row in found if row.run_id == run_id or is_child(row.run_id, run_id)]


def worktrees(connection: Session, run_id: str | None = None) -> list[tuple[WorkspaceRow, str]]:
    """Worktrees that were made and are not known to be gone, oldest first, each with its run's status."""
    text = (
        f"SELECT {', '.join(f'w.{name}' for name in WorkspaceRow._fields)}, r.status FROM _smithers_workspaces w "
        "JOIN _smithers_runs r ON r.run_id = w.run_id WHERE w.is_worktree = 1 AND w.removed_at_ms IS NULL"
    )
    parameters: list[SqlValue] = []
    if run_id is not None:
        text += " AND w.run_id = ?"
        parameters.append(run_id)
    rows = connection.execute(text + " ORDER BY w.created_at_ms, w.cwd", parameters)
    return [(WorkspaceRow(*row[:-1]), str(row[-1])) for row in rows]


def is_in_use(connection: Session, cwd: str, but_by: str) -> bool:
    """Whether another run that has not ended works in a folder."""
    found = connection.execute(
        "SELECT 1 FROM _smithers_workspaces w JOIN _smithers_runs r ON r.run_id = w.run_id WHERE w.cwd = ? AND w.run_id <> ? "
        "AND r.status NOT IN ('finished', 'failed', 'cancelled', 'continued') LIMIT 1",
        (cwd, but_by),
    ).fetchone()
    return found is not None


def worktree_removed(connection: Session, cwd: str, now_ms: int) -> None:
    """Note that a worktree is gone, for all runs that worked in it."""
    connection.execute(
        "UPDATE _smithers_workspaces SET removed_at_ms = ? WHERE cwd = ? AND is_worktree = 1 AND removed_at_ms IS NULL",
        (now_ms, cwd),
    )


def add_safety(connection: Session, row: CheckpointRow) -> None:
    """Note a checkpoint that was made for safety; its `seq` and its `position` are given here."""
    add_checkpoint(connection, row._replace(seq=_next_safety(connection, row.run_id)))


def add_checkpoint(connection: Session, row: CheckpointRow) -> None:
    """Note a checkpoint; its `position` is given here."""
    values = tuple(value for name, value in zip(row._fields, row, strict=True) if name != "position")
    connection.execute(sql.ROWS["checkpoint"], (*values, row.run_id))


def add_files(connection: Session, found: Sequence[Sequence[SqlValue]]) -> None:
    """Note what stopped attempts have left of files, where no step tells of them; rows as the statement takes them."""
    for row in found:
        connection.execute(sql.ROWS["checkpoint"], tuple(row))


def _next_safety(connection: Session, run_id: str) -> int:
    found = connection.execute(
        "SELECT coalesce(max(seq), 0) + 1 FROM _smithers_workspace_checkpoints WHERE run_id = ? AND node_id = ''",
        (run_id,),
    ).fetchone()
    return 1 if found is None else int(found[0])


def checkpoints(connection: Session, run_id: str, node_id: str | None = None) -> list[CheckpointRow]:
    """Checkpoints of a run, or of one node of it, in the order in which they became durable."""
    text, parameters = f"SELECT {_CHECKPOINT} FROM _smithers_workspace_checkpoints WHERE run_id = ?", [run_id]
    if node_id is not None:
        text, parameters = text + " AND node_id = ?", [run_id, node_id]
    return [CheckpointRow(*row) for row in connection.execute(text + " ORDER BY position", parameters)]


def attempt_checkpoint(
    connection: Session, run_id: str, node_id: str, iteration: int, attempt: int
) -> CheckpointRow | None:
    """The newest checkpoint of an attempt."""
    found = connection.execute(
        f"SELECT {_CHECKPOINT} FROM _smithers_workspace_checkpoints "
        "WHERE run_id = ? AND node_id = ? AND iteration = ? AND attempt = ? ORDER BY seq DESC LIMIT 1",
        (run_id, node_id, iteration, attempt),
    ).fetchone()
    return None if found is None else CheckpointRow(*found)


def base_of(connection: Session, row: CheckpointRow) -> str | None:
    """What a checkpoint is compared with: the one of the task's attempt before, else the newest one in that folder before
    it, else the folder as the run found it. None if none of them is stored."""
    for condition, parameters in (
        ("node_id = ? AND iteration = ?", (row.node_id, row.iteration)),
        ("node_id <> ?", ("",)),
    ):
        found = connection.execute(
            "SELECT commit_id FROM _smithers_workspace_checkpoints WHERE run_id = ? AND cwd = ? AND position < ? "
            f"AND commit_id IS NOT NULL AND {condition} ORDER BY position DESC LIMIT 1",
            (row.run_id, row.cwd, row.position, *parameters),
        ).fetchone()
        if found is not None:
            return str(found[0])
    place = workspace(connection, row.run_id, row.cwd)
    return None if place is None else place.base_ref


def forget_after(connection: Session, run_id: str, frame_no: int) -> int:
    """Drop what is on record of checkpoints after a frame, and the differences that they were in. How many of those there
    were. The commits and their refs stay in their repository."""
    diffs = connection.execute(
        "DELETE FROM _smithers_node_diffs WHERE run_id = ? AND EXISTS (SELECT 1 FROM _smithers_workspace_checkpoints c "
        "WHERE c.run_id = _smithers_node_diffs.run_id AND c.frame_no > ? AND c.source = 'attempt' "
        "AND c.commit_id IN (_smithers_node_diffs.base_ref, _smithers_node_diffs.target_ref)) RETURNING 1",
        (run_id, frame_no),
    ).fetchall()
    connection.execute(
        "DELETE FROM _smithers_workspace_checkpoints WHERE run_id = ? AND frame_no > ? AND source = 'attempt'",
        (run_id, frame_no),
    )
    return len(diffs)


def forget_run(connection: Session, run_id: str) -> None:
    """Drop what is on record of a run's checkpoints."""
    for table in ("node_diffs", "workspace_checkpoints"):
        connection.execute(f"DELETE FROM _smithers_{table} WHERE run_id = ?", (run_id,))
    connection.execute(
        "UPDATE _smithers_workspaces SET base_ref = NULL, base_tree = NULL, problem = ? WHERE run_id = ?",
        ("its checkpoints were removed", run_id),
    )


def cached_diff(
    connection: Session, run_id: str, node_id: str, iteration: int, base_ref: str, target_ref: str
) -> str | None:
    """A difference that was computed before, as JSON."""
    found = connection.execute(
        "SELECT diff_json FROM _smithers_node_diffs "
        "WHERE run_id = ? AND node_id = ? AND iteration = ? AND base_ref = ? AND target_ref = ?",
        (run_id, node_id, iteration, base_ref, target_ref),
    ).fetchone()
    return None if found is None else str(found[0])


def cache_diff(connection: Session, key: Sequence[SqlValue], diff_json: str, now_ms: int) -> None:
    """Keep a difference; `key` is run, node, iteration, base and target."""
    connection.execute(_CACHE, (*key, diff_json, now_ms, len(diff_json.encode())))
