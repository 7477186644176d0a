"""Tool calls as the store keeps them: the journal's rows, and the two entries that are made for each call.

`SqlStore.journal` takes the entries; the SQL is in `sql/calls.py`. What a tool tells of itself is `smithers.tools`'.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from smithers.events import EventDraft
from smithers.records import dataclass

CallState = Literal["started", "finished", "failed"]
MAX_GIVEN = 2000
"""As many characters of what a call was given are kept of an unsafe one."""


class ToolCallRow(NamedTuple):
    """A stored call. One that is `started` although its attempt is over may have had its effect or not."""

    run_id: str
    node_id: str
    iteration: int
    attempt: int
    seq: int
    call_token: str
    tool_name: str
    input_json: str | None
    output_json: str | None
    started_at_ms: int
    finished_at_ms: int | None
    status: str
    error_json: str | None
    kind: str
    side_effect: int
    idempotent: int
    accepts_idempotency_key: int
    has_revert: int
    idempotency_key: str | None
    revert_status: str | None = None
    reverted_at_ms: int | None = None
    revert_error_json: str | None = None
    forced_past_json: str | None = None
    contained: int = 0
    """Whether it could change nothing but the folder that its task works in."""


class UnsafeCall(NamedTuple):
    """A call that may not be repeated, as it matters to whether another attempt may begin. `given` is the beginning of what
    it was given, as JSON text; None for a task's own effect."""

    call_token: str
    attempt: int
    seq: int
    tool_name: str
    given: str | None
    has_succeeded: bool
    """False if it failed or was cut off: its effect may have happened or not."""


class CallEnd(NamedTuple):
    """How a call came to its end."""

    call_token: str
    status: CallState
    finished_at_ms: int
    output_json: str | None
    error_json: str | None


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """The beginning or the end of a call and the event that tells of it: written together under (`owner`, `epoch`)."""

    run_id: str
    owner: str
    epoch: int
    now_ms: int
    call: ToolCallRow | CallEnd
    event: EventDraft
