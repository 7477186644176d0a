"""Calls: what the tools of one run work with. A context for each attempt that uses any, a journal under the run's fence,
and what earlier attempts have called.

Nothing of `smithers.tools` is imported before a tool asks: most workflows use none.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import field
from typing import TYPE_CHECKING

from smithers.engine.hub import Hub
from smithers.engine.tooling import DEFAULT, ToolOptions
from smithers.errors import OwnershipError, RunNotFound, TaskAborted
from smithers.events import EventDraft, event
from smithers.records import dataclass
from smithers.store.calls import MAX_GIVEN, CallEnd, CallState, JournalEntry, ToolCallRow, UnsafeCall
from smithers.store.interface import CancelRequested
from smithers.store.sql import calls, effects
from smithers.store.sql.store import SqlStore

if TYPE_CHECKING:
    from smithers.engine.runtime import TaskRuntime
    from smithers.tools.context import ToolContext
    from smithers.tools.journal import ToolCallRecord

log = logging.getLogger(__name__)


_NOTHING: tuple[frozenset[str], Counter[tuple[str, int]]] = (frozenset(), Counter())


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTools:
    """What a run's owner gives to the tools of its attempts: (`owner`, `epoch`) is the fence of all that they write."""

    store: SqlStore
    hub: Hub
    loop: asyncio.AbstractEventLoop
    now_ms: Callable[[], int]
    run_id: str
    owner: str
    epoch: int
    options: ToolOptions = DEFAULT
    _undone: list[tuple[frozenset[str], Counter[tuple[str, int]]]] = field(
        default_factory=list[tuple[frozenset[str], Counter[tuple[str, int]]]], repr=False
    )

    def context(self, runtime: TaskRuntime) -> ToolContext:
        """The context of an attempt. Of an attempt after the first, its log tells what is not to be repeated."""
        from smithers.tools.context import MAX_OUTPUT_BYTES, TIMEOUT_MS, ToolContext

        options = self.options
        risky = self.earlier(runtime.node_id, runtime.iteration, runtime.attempt)
        if risky:
            log.warning(
                "an earlier attempt of this task has already called tools that must not be repeated blindly",
                extra={
                    "run_id": self.run_id,
                    "node_id": runtime.node_id,
                    "iteration": runtime.iteration,
                    "attempt": runtime.attempt,
                    "tools": sorted({call.tool_name for call in risky}),
                },
            )
        journal = AttemptJournal(self, runtime)
        runtime.unsafe_calls = journal.unsafe
        return ToolContext(
            root_dir=runtime.root_dir.absolute(),
            allow_network=options.allow_network,
            sandbox=options.sandbox,
            max_output_bytes=MAX_OUTPUT_BYTES if options.max_output_bytes is None else options.max_output_bytes,
            timeout_ms=TIMEOUT_MS if options.timeout_ms is None else options.timeout_ms,
            run_id=self.run_id,
            node_id=runtime.node_id,
            iteration=runtime.iteration,
            attempt=runtime.attempt,
            journal=journal,
            aborted=runtime.aborted,
            on_touch=runtime.touches_files,
            git_dir=runtime.git_dir,
            spent_keys=self.undone[0],
        )

    @property
    def undone(self) -> tuple[frozenset[str], Counter[tuple[str, int]]]:
        """What time travel has undone in this run: idempotency keys of calls, and how often each task's own effect."""
        if self.epoch == 1:  # the owner that it was launched with: nobody has changed its history
            return _NOTHING
        if not self._undone:
            self._undone.append(self.store.read(lambda c: effects.undone(c, self.run_id)))
        return self._undone[0]

    def earlier(self, node_id: str, iteration: int, attempt: int) -> tuple[ToolCallRecord, ...]:
        """The calls of attempts before this one that may not be repeated blindly, in order."""
        if attempt <= 1:
            return ()
        return _records(self.store.read(lambda c: calls.risky_calls(c, self.run_id, node_id, iteration, attempt)))

    async def warning(self, node_id: str, iteration: int, attempt: int) -> str | None:
        """What an agent is to know of earlier attempts' calls; None if there is nothing."""
        if attempt <= 1:
            return None
        rows = await self.store.aread(lambda c: calls.risky_calls(c, self.run_id, node_id, iteration, attempt))
        if not rows:
            return None
        from smithers.tools.journal import retry_warning

        return retry_warning(_records(rows))

    def tell(self) -> None:
        """Have readers of this run's log look at it; from any thread."""
        if self.hub.has_subscribers or self.hub.on_touch:
            with suppress(RuntimeError):  # the loop is closed: nobody reads
                self.loop.call_soon_threadsafe(self.hub.touch, self.run_id)


class AttemptJournal:
    """The `Journal` of one attempt.

    Both records of a call with a side effect are durable before anything goes on because of them. Those of other calls
    are handed in and not waited for: the writer keeps the order, so they are durable no later than the attempt's result.

    Attributes:
        unsafe: calls that must not be repeated unasked and may have been made, by token.
    """

    def __init__(self, tools: RunTools, runtime: TaskRuntime) -> None:
        self._tools = tools
        self._runtime = runtime
        self.unsafe: dict[str, UnsafeCall] = {}

    async def intended(self, record: ToolCallRecord) -> None:
        """Write that a call begins. Raises `LeaseLost`, `StorageError`, or `TaskAborted`: the attempt is to end, or has."""
        if record.is_unsafe:
            # before the look at the attempt, which may be of another thread: who ends it finds the call here, or it is refused
            given = record.input_json[:MAX_GIVEN]
            call = UnsafeCall(record.call_token, record.attempt, record.seq, record.tool_name, given, False)
            self.unsafe[record.call_token] = call
        if self._runtime.aborted.is_set():
            self.unsafe.pop(record.call_token, None)
            raise TaskAborted(f"{record.tool_name} is not called: the attempt is over")
        row = ToolCallRow(
            run_id=record.run_id,
            node_id=record.node_id,
            iteration=record.iteration,
            attempt=record.attempt,
            seq=record.seq,
            call_token=record.call_token,
            tool_name=record.tool_name,
            input_json=record.input_json,
            output_json=None,
            started_at_ms=self._tools.now_ms(),
            finished_at_ms=None,
            status="started",
            error_json=None,
            kind=record.kind,
            side_effect=int(record.side_effect),
            idempotent=int(record.idempotent),
            accepts_idempotency_key=int(record.accepts_idempotency_key),
            has_revert=int(record.has_revert),
            idempotency_key=record.idempotency_key,
            contained=int(record.contained),
        )
        told = event(
            "ToolCallStarted",
            record.node_id,
            record.iteration,
            attempt=record.attempt,
            toolCallId=record.call_token,
            toolName=record.tool_name,
            seq=record.seq,
        )
        try:
            await self._write(record, row, told)
        except (TaskAborted, OwnershipError, RunNotFound):  # it is not on record; after any other error it may be
            self.unsafe.pop(record.call_token, None)
            raise

    async def finished(self, record: ToolCallRecord) -> None:
        """Write how a call ended. Raises `LeaseLost` or `StorageError`: the call stays on record as begun."""
        is_ok = record.status == "succeeded"
        state: CallState = "finished" if is_ok else "failed"
        end = CallEnd(record.call_token, state, self._tools.now_ms(), record.output_json, record.error_json)
        told = event(
            "ToolCallFinished",
            record.node_id,
            record.iteration,
            attempt=record.attempt,
            toolCallId=record.call_token,
            toolName=record.tool_name,
            seq=record.seq,
            status="success" if is_ok else "error",
            truncated=True if record.is_output_cut else None,
        )
        await self._write(record, end, told)
        if is_ok and (call := self.unsafe.get(record.call_token)) is not None:
            self.unsafe[record.call_token] = call._replace(has_succeeded=True)

    async def _write(self, record: ToolCallRecord, call: ToolCallRow | CallEnd, told: EventDraft) -> None:
        tools = self._tools
        entry = JournalEntry(tools.run_id, tools.owner, tools.epoch, tools.now_ms(), call, told)
        if not record.side_effect:
            tools.store.journal_soon(entry, self._written)
            return
        try:
            await tools.store.journal(entry)
        except CancelRequested:
            raise TaskAborted(f"{record.tool_name} is not called: the run is to be cancelled") from None
        tools.tell()

    def _written(self, error: BaseException | None) -> None:
        if error is None:
            self._tools.tell()
        elif not isinstance(error, (CancelRequested, OwnershipError)):  # of those the driver hears by itself
            log.warning("a tool call is not on record", exc_info=error, extra={"run_id": self._tools.run_id})


def _records(rows: Sequence[ToolCallRow]) -> tuple[ToolCallRecord, ...]:
    """Rows of attempts that are over, as tools see them: a call that has only begun may have had its effect."""
    if not rows:
        return ()
    from smithers.tools.journal import CallStatus, ToolCallRecord

    return tuple(
        ToolCallRecord(
            run_id=row.run_id,
            node_id=row.node_id,
            iteration=row.iteration,
            attempt=row.attempt,
            seq=row.seq,
            call_token=row.call_token,
            tool_name=row.tool_name,
            input_json=row.input_json or "null",
            started_at_ms=row.started_at_ms,
            status=CallStatus.SUCCEEDED if row.status == "finished" else CallStatus.UNKNOWN,
            finished_at_ms=row.finished_at_ms,
            output_json=row.output_json,
            error_json=row.error_json,
            kind=row.kind,
            side_effect=bool(row.side_effect),
            idempotent=bool(row.idempotent),
            accepts_idempotency_key=bool(row.accepts_idempotency_key),
            has_revert=bool(row.has_revert),
            idempotency_key=row.idempotency_key,
            contained=bool(row.contained),
        )
        for row in rows
    )
