"""Checks what a database holds against itself: what the engine relies on, looked up the slow way, reading only."""

from __future__ import annotations

from typing import Final

from smithers.store.copying import COLUMNS
from smithers.store.sql.session import Session, dialect_of
from smithers.store.sql.store import SqlStore
from smithers.store.sql.tables import columns_of, quoted

LIMIT: Final = 20
"""So many lines a kind of finding; what is behind them is usually one thing."""

_GAPS: Final = f"""
SELECT r.run_id, r.next_seq, count(e.seq), max(e.seq) FROM _smithers_runs r
LEFT JOIN _smithers_events e ON e.run_id = r.run_id
GROUP BY r.run_id, r.next_seq
HAVING count(e.seq) <> r.next_seq OR coalesce(max(e.seq), -1) <> r.next_seq - 1
ORDER BY r.run_id LIMIT {LIMIT}
"""
_NO_SPEC: Final = f"""
SELECT r.run_id FROM _smithers_runs r LEFT JOIN _smithers_run_specs s ON s.run_id = r.run_id
WHERE s.run_id IS NULL ORDER BY r.run_id LIMIT {LIMIT}
"""
_ENDED: Final = "('finished', 'failed', 'cancelled', 'continued')"
_OPEN_IN_ENDED: Final = f"""
SELECT n.run_id, n.node_id, n.iteration, n.state, r.status FROM _smithers_nodes n
JOIN _smithers_runs r ON r.run_id = n.run_id
WHERE r.status IN ('finished', 'cancelled') AND (n.state = 'in-progress' OR n.state LIKE 'waiting-%')
ORDER BY n.run_id, n.node_id, n.iteration LIMIT {LIMIT}
"""
_OWNED: Final = f"""
SELECT run_id, status FROM _smithers_runs
WHERE runtime_owner_id IS NOT NULL AND status IN {_ENDED} ORDER BY run_id LIMIT {LIMIT}
"""


def check(store: SqlStore) -> list[str]:
    """What is wrong with a database, a line each; nothing if it is sound. Reads all of it, in one snapshot."""
    return store.read(_findings)


def _findings(session: Session) -> list[str]:
    found: list[str] = []
    if dialect_of(session) == "sqlite":
        for (line,) in session.execute(f"PRAGMA integrity_check({LIMIT})").fetchall():
            if line != "ok":
                found.append(f"the file is damaged: {line}")
        for row in session.execute("PRAGMA foreign_key_check").fetchall()[:LIMIT]:
            found.append(f"a row of {row[0]} refers to one of {row[2]} that is not there")
    for run_id, next_seq, count, last in session.execute(_GAPS).fetchall():
        told = "nothing" if last is None else f"up to {last}"
        found.append(f"run {run_id}: its log should have {next_seq} events without a gap, and has {count}, {told}")
    for (run_id,) in session.execute(_NO_SPEC).fetchall():
        found.append(f"run {run_id}: what it was launched with is missing")
    for run_id, node_id, iteration, state, status in session.execute(_OPEN_IN_ENDED).fetchall():
        found.append(f"run {run_id} is {status}, and its task {node_id} (iteration {iteration}) is {state}")
    for run_id, status in session.execute(_OWNED).fetchall():
        found.append(f"run {run_id} is {status}, and still has an owner")
    for (table,) in session.execute(f"SELECT DISTINCT table_name FROM {COLUMNS} ORDER BY table_name").fetchall():
        found += _outputs(session, str(table))
    return found


def _outputs(session: Session, table: str) -> list[str]:
    if not columns_of(session, table):
        return [f"the output table {table} is missing"]
    rows = session.execute(
        f"SELECT n.run_id, n.node_id, n.iteration FROM _smithers_nodes n LEFT JOIN {quoted(table)} o "
        "ON o.run_id = n.run_id AND o.node_id = n.node_id AND o.iteration = n.iteration "
        "WHERE n.state = 'finished' AND n.output_table = ? AND n.output_seq IS NOT NULL AND o.run_id IS NULL "
        f"ORDER BY n.run_id, n.node_id LIMIT {LIMIT}",
        (table,),
    )
    return [
        f"run {run_id}: task {node_id} (iteration {iteration}) is finished, and its row in {table} is missing"
        for run_id, node_id, iteration in rows
    ]
