"""Unsafe calls: what nodes have called that may not be repeated, as whoever takes their run over has to know it.

The journal itself is `calls.py`'s; what becomes of another attempt is the engine's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from smithers.jsons import object_of
from smithers.store.calls import MAX_GIVEN, UnsafeCall
from smithers.store.sql.session import Row

_ELSEWHERE: Final = "replay"
"""What may be forced past calls without having their own run do anything again: another run does."""

# CROSS JOIN, because SQLite keeps its order: first the few that a small index has, then their nodes, then the calls themselves
UNSAFE: Final = f"""
SELECT c.node_id, c.iteration, c.call_token, c.attempt, c.seq, c.tool_name, substr(c.input_json, 1, {MAX_GIVEN}),
       CASE WHEN c.status = 'finished' THEN 1 ELSE 0 END, c.forced_past_json
FROM (SELECT run_id, node_id, iteration, attempt, seq FROM _smithers_tool_calls
      WHERE run_id = ? AND side_effect = 1 AND idempotent = 0 AND accepts_idempotency_key = 0 AND contained = 0) u
CROSS JOIN _smithers_nodes n CROSS JOIN _smithers_tool_calls c
WHERE n.run_id = u.run_id AND n.node_id = u.node_id AND n.iteration = u.iteration
  AND n.state NOT IN ('finished', 'skipped')
  AND c.run_id = u.run_id AND c.node_id = u.node_id AND c.iteration = u.iteration
  AND c.attempt = u.attempt AND c.seq = u.seq
  AND (c.revert_status IS NULL OR c.revert_status <> 'reverted')
ORDER BY c.attempt, c.seq
"""
"""The calls of a run that guard another attempt of a node: made in it and neither harmless, contained nor undone."""


def unsafe_calls(rows: Iterable[Row]) -> dict[tuple[str, int], list[UnsafeCall]]:
    """What `UNSAFE` has found, by node. Whoever forced a change of history past a call has decided about it."""
    found: dict[tuple[str, int], list[UnsafeCall]] = {}
    for node_id, iteration, token, attempt, seq, tool, given, has_succeeded, forced in rows:
        if forced is None or object_of(json.loads(forced)).get("operation") == _ELSEWHERE:
            call = UnsafeCall(token, attempt, seq, tool, given, bool(has_succeeded))
            found.setdefault((node_id, iteration), []).append(call)
    return found
