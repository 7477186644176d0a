"""Replaced rows: what nodes had come to before they were done again, kept so that older frames are told as they were.

A row is copied here only when a reset takes it away (`resets.py`), or a person is asked anew whether a node may be done
again (`commit.py`), so runs that never do anything again pay nothing. It holds from the frame of its own up to, but not
including, the frame of the reset or of the new question. A rewind to a frame in between puts it
back (`travel.py`); the past reads it (`past.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, cast

from smithers.store.columns import Kind
from smithers.store.interface import NodeRow, SqlValue
from smithers.store.sql import reads
from smithers.store.sql.session import Session, dialect_of
from smithers.store.sql.tables import as_encoded, marks_of, quoted

Key = tuple[str, int]

OUTPUT: Final = "output"
APPROVAL: Final = "approval"
HUMAN: Final = "human"
ATTEMPT: Final = "attempt"
"""The newest attempt: waits take its number again."""

_OF_NODE: Final = "run_id = ? AND node_id = ? AND iteration = ?"
_ROWS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    APPROVAL: (
        "_smithers_approvals",
        (
            "status", "workflow_name", "requested_at_ms", "decided_at_ms", "note", "decided_by", "request_json",
            "decision_json", "auto_approved", "frame_no", "decided_frame",
        ),
    ),
    HUMAN: (
        "_smithers_human_requests",
        (
            "kind", "status", "prompt", "schema_json", "options_json", "response_json", "requested_at_ms",
            "answered_at_ms", "answered_by", "timeout_at_ms", "frame_no", "closed_frame",
        ),
    ),
    ATTEMPT: (
        "_smithers_attempts",
        (
            "attempt", "state", "frame_no", "started_at_ms", "finished_at_ms", "heartbeat_at_ms", "heartbeat_data_json",
            "error_json", "response_text", "cached", "meta_json", "finished_frame", "heartbeat_frame",
        ),
    ),
}  # fmt: skip
"""Where other kinds are stored, and their columns beside the node's key: the id of a question follows from that."""

_KEEP: Final = """
INSERT INTO _smithers_replaced_rows (run_id, node_id, iteration, until_frame, kind, frame_no, output_seq, output_table,
                                     row_json, replaced_by_op, replaced_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_AT: Final = """
SELECT node_id, iteration, kind, frame_no, output_seq, output_table, row_json FROM _smithers_replaced_rows
WHERE run_id = ? AND frame_no <= ? AND until_frame > ? ORDER BY until_frame DESC
"""
_BEFORE: Final = """
SELECT node_id, iteration, kind, frame_no, output_seq, output_table, row_json FROM _smithers_replaced_rows
WHERE run_id = ? AND until_frame <= ? AND kind = ? ORDER BY until_frame
"""
_DROP: Final = "DELETE FROM _smithers_replaced_rows WHERE run_id = ? AND until_frame > ?"
_COPY: Final = """
INSERT INTO _smithers_replaced_rows (run_id, node_id, iteration, until_frame, kind, frame_no, output_seq, output_table,
                                     row_json, replaced_by_op, replaced_at_ms)
SELECT ?, node_id, iteration, until_frame, kind, frame_no, output_seq, output_table, row_json, replaced_by_op,
       replaced_at_ms FROM _smithers_replaced_rows WHERE run_id = ? AND frame_no <= ?
"""


class Replaced(NamedTuple):
    """A row as it was at a frame; `values` by column, without the node's key."""

    node_id: str
    iteration: int
    kind: str
    frame_no: int
    output_seq: int | None
    output_table: str | None
    values: dict[str, SqlValue]

    @property
    def key(self) -> Key:
        """The node."""
        return self.node_id, self.iteration

    def columns(self, run_id: str, names: Sequence[str]) -> tuple[SqlValue, ...]:
        """The values of columns in this order, of those of the key too."""
        keys: dict[str, SqlValue] = {"run_id": run_id, "node_id": self.node_id, "iteration": self.iteration}
        if self.kind == HUMAN:
            keys["request_id"] = f"human:{run_id}:{self.node_id}:{self.iteration}"
        found = {**keys, **self.values}
        return tuple(found[name] for name in names)


class Replacement(NamedTuple):
    """By which operation, when, and at which frame rows are replaced."""

    frame: int
    op_id: str
    now_ms: int


# ── taking away ────────────────────────────────────────────────────────────────────────────────────────────────────


def take_away(connection: Session, run_id: str, node: NodeRow, by: Replacement) -> None:
    """Remove a node's output row and its requests, and keep them here, with a copy of its newest attempt."""
    place = (run_id, node.node_id, node.iteration)
    if node.output_table is not None:
        _keep_output(connection, run_id, node, by)
        connection.execute(f"DELETE FROM {quoted(node.output_table)} WHERE {_OF_NODE}", place)
    for kind, (table, _) in _ROWS.items():
        if _keep_row(connection, place, kind, by) and kind != ATTEMPT:
            connection.execute(f"DELETE FROM {table} WHERE {_OF_NODE}", place)


def keep_approval(connection: Session, run_id: str, key: Key, by: Replacement) -> None:
    """Keep a node's approval here, if it has one: a person is asked again, and the row is about to be written anew."""
    _keep_row(connection, (run_id, *key), APPROVAL, by)


def _keep_row(connection: Session, place: tuple[str, str, int], kind: str, by: Replacement) -> bool:
    """Keep a copy of a node's row, its newest attempt's if it is about attempts. Whether there is one."""
    table, columns = _ROWS[kind]
    newest = " ORDER BY attempt DESC LIMIT 1" if kind == ATTEMPT else ""
    row = connection.execute(f"SELECT {', '.join(columns)} FROM {table} WHERE {_OF_NODE}{newest}", place).fetchone()
    if row is None:
        return False
    values = dict(zip(columns, row, strict=True))
    _keep(connection, place, kind, int(cast("int", values["frame_no"])), None, None, values, by)
    return True


def _keep_output(connection: Session, run_id: str, node: NodeRow, by: Replacement) -> None:
    table = node.output_table
    if table is None or node.output_seq is None:
        return
    names = list(reads.column_kinds(connection, table))
    listed = "".join(f", {quoted(name)}" for name in names)
    place = (run_id, node.node_id, node.iteration)
    row = connection.execute(f"SELECT run_id{listed} FROM {quoted(table)} WHERE {_OF_NODE}", place).fetchone()
    if row is not None:
        values = dict(zip(names, map(as_encoded, row[1:]), strict=True))
        _keep(connection, place, OUTPUT, node.frame_no, node.output_seq, table, values, by)


def _keep(
    connection: Session,
    place: tuple[str, str, int],
    kind: str,
    frame_no: int,
    output_seq: int | None,
    table: str | None,
    values: dict[str, SqlValue],
    by: Replacement,
) -> None:
    # a second reset at the same frame finds what the first has left; what stood before is kept already
    # Python's own JSON: an author's text may hold what is not valid Unicode, and a number may be infinite
    text = json.dumps(values)
    connection.execute(_KEEP, (*place, by.frame, kind, frame_no, output_seq, table, text, by.op_id, by.now_ms))


# ── reading and putting back ───────────────────────────────────────────────────────────────────────────────────────


def replaced_since(connection: Session, run_id: str, frame_no: int) -> list[Replaced]:
    """The rows that were there right after a frame and were replaced later."""
    rows = connection.execute(_AT, (run_id, frame_no, frame_no))
    found = [_replaced(row) for row in rows]
    # an attempt that was made again at once keeps its first frame: what was replaced first is what stood then
    return list({(row.kind, row.key): row for row in found}.values())


def attempts_before(connection: Session, run_id: str, frame_no: int) -> list[Replaced]:
    """The newest attempts of nodes that were done again by a frame, the last of each node last. They stood until the same
    number was given again, which it is to waits."""
    rows = connection.execute(_BEFORE, (run_id, frame_no, ATTEMPT))
    return [_replaced(row) for row in rows]


def _replaced(row: Sequence[SqlValue]) -> Replaced:
    *place, text = row
    return Replaced._make([*place, json.loads(cast("str", text))])


def copy_up_to(connection: Session, run_id: str, parent_run_id: str, frame_no: int) -> None:
    """Give a fork the rows of the run that it is made of, as far as they were there by a frame."""
    connection.execute(_COPY, (run_id, parent_run_id, frame_no))


def put_back(connection: Session, run_id: str, frame_no: int, found: Iterable[Replaced]) -> None:
    """Have the rows of `replaced_since` stand where they stood, instead of what is there now; drop what came to be later."""
    for row in found:
        if row.kind == OUTPUT and row.output_table is not None:
            _put_output_back(connection, run_id, row, row.output_table)
        elif row.kind in _ROWS:
            _put_row_back(connection, run_id, row)
    connection.execute(_DROP, (run_id, frame_no))


def _put_output_back(connection: Session, run_id: str, row: Replaced, table: str) -> None:
    kinds = cast("dict[str, Kind]", reads.column_kinds(connection, table))
    marks = marks_of([None, None, None, *(kinds.get(name) for name in row.values)], dialect_of(connection))
    names = ("run_id", "node_id", "iteration")
    _write(connection, table, _OF_NODE, names, row.columns(run_id, names), row.values, marks)


def _put_row_back(connection: Session, run_id: str, row: Replaced) -> None:
    table, columns = _ROWS[row.kind]
    extra = {HUMAN: "request_id", ATTEMPT: "attempt"}.get(row.kind)
    names = ("run_id", "node_id", "iteration", *(() if extra is None else (extra,)))
    values = {name: row.values[name] for name in columns if name not in names}
    where = f"{_OF_NODE} AND attempt = ?" if row.kind == ATTEMPT else _OF_NODE
    marks = ["?"] * (len(names) + len(values))
    _write(connection, table, where, names, row.columns(run_id, names), values, marks)


def _write(
    connection: Session,
    table: str,
    where: str,
    names: Sequence[str],
    place: tuple[SqlValue, ...],
    values: dict[str, SqlValue],
    marks: Sequence[str],
) -> None:
    """One row, in place of the one that is there."""
    connection.execute(f"DELETE FROM {quoted(table)} WHERE {where}", place[: where.count("?")])
    listed = ", ".join((*names, *map(quoted, values)))
    connection.execute(
        f"INSERT INTO {quoted(table)} ({listed}) VALUES ({', '.join(marks)})", (*place, *values.values())
    )
