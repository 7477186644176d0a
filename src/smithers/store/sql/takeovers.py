"""Takeovers: what people ask of runs that others have launched: to have an agent's session handed over, to go on."""

from __future__ import annotations

from typing import Final, NamedTuple

from pydantic_core import from_json

from smithers.errors import RunNotActive
from smithers.events import event
from smithers.jsons import object_of, text_of
from smithers.store.sql import control, reads
from smithers.store.sql.lineage import TERMINAL
from smithers.store.sql.locks import lock_run
from smithers.store.sql.session import Session

NATIVE: Final = "native-cli"
CONVERSATION: Final = "conversation"


class AgentSession(NamedTuple):
    """An agent's session that somebody could go on with: a command's own by its id, or the messages of a conversation."""

    node_id: str
    engine: str
    mode: str
    iteration: int
    attempt: int
    started_at_ms: int | None


def sessions(connection: Session, run_id: str) -> list[AgentSession]:
    """The newest session of each node of a run that has one."""
    rows = connection.execute(
        "SELECT node_id, iteration, attempt, started_at_ms, meta_json FROM _smithers_attempts "
        "WHERE run_id = ? AND meta_json LIKE ? ORDER BY node_id, iteration DESC, attempt DESC",
        (run_id, '%"agentEngine"%'),
    )
    found: dict[str, AgentSession] = {}
    for node_id, iteration, attempt, started, meta_json in rows:
        if node_id in found:
            continue
        meta = object_of(from_json(str(meta_json)))
        engine = text_of(meta.get("agentEngine"))
        mode = NATIVE if text_of(meta.get("agentResume")) else CONVERSATION if meta.get("agentConversation") else None
        if engine is not None and mode is not None:
            found[str(node_id)] = AgentSession(str(node_id), engine, mode, int(iteration), int(attempt), started)
    return list(found.values())


def request_hijack(connection: Session, run_id: str, now_ms: int, target: str | None) -> None:
    """Record that somebody wants to take a run over. Raises `RunNotFound`, or `RunNotActive` for one that has ended and
    left no session to go on with."""
    lock_run(connection, run_id)
    row = reads.run(connection, run_id)
    if row.status in TERMINAL and not sessions(connection, run_id):
        raise RunNotActive(run_id, row.status)
    connection.execute(
        "UPDATE _smithers_run_specs SET hijack_requested_at_ms = ?, hijack_target = ? WHERE run_id = ?",
        (now_ms, target, run_id),
    )
    control.append_events(connection, run_id, now_ms, [event("RunHijackRequested", target=target)])
