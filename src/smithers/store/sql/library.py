"""Library: memory facts and scores, as a gateway lists them and the engine and the command line write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from smithers.store.interface import SqlValue
from smithers.store.sql.session import Session

# ── memory facts ───────────────────────────────────────────────────────────────────────────────────────────────────


class FactRow(NamedTuple):
    """A stored fact. One with a `ttl_ms` is gone that long after its last change."""

    namespace: str
    key: str
    value_json: str
    schema_sig: str | None
    created_at_ms: int
    updated_at_ms: int
    ttl_ms: int | None
    run_id: str | None = None
    node_id: str | None = None
    iteration: int | None = None


_FACT = ", ".join(FactRow._fields)


def put_fact(connection: Session, row: FactRow) -> None:
    """Store a fact, or replace the one with this name but for its creation time."""
    connection.execute(
        f"INSERT INTO _smithers_memory_facts ({_FACT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (namespace, key) DO UPDATE SET value_json = excluded.value_json, schema_sig = excluded.schema_sig, "
        "updated_at_ms = excluded.updated_at_ms, ttl_ms = excluded.ttl_ms, run_id = excluded.run_id, "
        "node_id = excluded.node_id, iteration = excluded.iteration",
        row,
    )


def delete_fact(connection: Session, namespace: str, key: str) -> bool:
    """Forget a fact. Whether there was one."""
    row = connection.execute(
        "DELETE FROM _smithers_memory_facts WHERE namespace = ? AND key = ? RETURNING 1", (namespace, key)
    ).fetchone()
    return row is not None


def facts(connection: Session, namespace: str | None, now_ms: int, limit: int) -> list[FactRow]:
    """Facts that hold at a time, by namespace and key."""
    text, parameters = (
        f"SELECT {_FACT} FROM _smithers_memory_facts WHERE (ttl_ms IS NULL OR updated_at_ms + ttl_ms > ?)",
        list[SqlValue]([now_ms]),
    )
    if namespace is not None:
        text += " AND namespace = ?"
        parameters.append(namespace)
    rows = connection.execute(text + " ORDER BY namespace, key LIMIT ?", (*parameters, limit))
    return [FactRow(*row) for row in rows]


# ── scores ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class ScoreRow(NamedTuple):
    """A stored score, without what was scored."""

    id: str
    run_id: str
    node_id: str
    iteration: int
    attempt: int
    scorer_id: str
    scorer_name: str
    source: str
    score: float
    reason: str | None
    scored_at_ms: int
    latency_ms: float | None
    duration_ms: float | None


class ScoreDetail(NamedTuple):
    """What was scored, as JSON texts."""

    meta_json: str | None = None
    input_json: str | None = None
    output_json: str | None = None
    ground_truth_json: str | None = None
    context_json: str | None = None


_SCORE = ", ".join(ScoreRow._fields)
_DETAIL = ", ".join(ScoreDetail._fields)


def put_score(connection: Session, row: ScoreRow, detail: ScoreDetail) -> None:
    """Store a score in place of an earlier one by the same scorer of the same attempt."""
    names = [*ScoreRow._fields, *ScoreDetail._fields]
    kept = ("id", "run_id", "node_id", "iteration", "attempt", "scorer_id", "source")
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name not in kept)
    connection.execute(
        f"INSERT INTO _smithers_scorers ({', '.join(names)}) VALUES ({', '.join('?' for _ in names)}) "
        f"ON CONFLICT (run_id, node_id, iteration, attempt, scorer_id, source) DO UPDATE SET {changes}",
        (*row, *detail),
    )


def scores(connection: Session, run_id: str, node_id: str | None, limit: int) -> list[ScoreRow]:
    """Scores of a run, or of one of its nodes, oldest first."""
    text, parameters = f"SELECT {_SCORE} FROM _smithers_scorers WHERE run_id = ?", list[SqlValue]([run_id])
    if node_id is not None:
        text += " AND node_id = ?"
        parameters.append(node_id)
    rows = connection.execute(
        text + " ORDER BY scored_at_ms, node_id, iteration, attempt, scorer_id, id LIMIT ?", (*parameters, limit)
    )
    return [ScoreRow(*row) for row in rows]


class ScoreFilter(NamedTuple):
    """Which scores of some runs are compared; None for whichever."""

    node_id: str | None = None
    scorer_id: str | None = None
    scorer_name: str | None = None
    source: str | None = None


def compared(
    connection: Session, run_ids: Sequence[str], wanted: ScoreFilter, *, is_descending: bool, limit: int
) -> tuple[list[ScoreRow], int]:
    """The first scores of several runs by time, and how many there are."""
    where = [f"run_id IN ({', '.join('?' for _ in run_ids)})"]
    parameters = list[SqlValue](run_ids)
    for name, value in zip(ScoreFilter._fields, wanted, strict=True):
        if value is not None:
            where.append(f"{name} = ?")
            parameters.append(value)
    condition = " AND ".join(where)
    count = connection.execute(f"SELECT count(*) FROM _smithers_scorers WHERE {condition}", parameters).fetchall()[0][0]
    rows = connection.execute(
        f"SELECT {_SCORE} FROM _smithers_scorers WHERE {condition} ORDER BY scored_at_ms{' DESC' if is_descending else ''}, "
        "run_id, node_id, iteration, attempt, scorer_id, id LIMIT ?",
        (*parameters, limit),
    )
    return [ScoreRow(*row) for row in rows], count if isinstance(count, int) else 0


def score(connection: Session, run_id: str, score_id: str) -> tuple[ScoreRow, ScoreDetail] | None:
    """One score of a run, with what was scored."""
    rows = list(
        connection.execute(
            f"SELECT {_SCORE}, {_DETAIL} FROM _smithers_scorers WHERE id = ? AND run_id = ?", (score_id, run_id)
        )
    )
    width = len(ScoreRow._fields)
    return (ScoreRow(*rows[0][:width]), ScoreDetail(*rows[0][width:])) if rows else None
