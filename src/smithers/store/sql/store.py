"""SqlStore: a database of runs, of either dialect. Wires the commit path, control, requests and reads together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from smithers.events import EventDraft
from smithers.store.calls import JournalEntry
from smithers.store.columns import TableDef
from smithers.store.interface import (
    ApprovalRow,
    Committed,
    HumanRow,
    Inbox,
    LoadedRun,
    NewRun,
    RunRow,
    Step,
    StoredSignal,
)
from smithers.store.sql import calls, control, reads, requests
from smithers.store.sql.commit import write_step
from smithers.store.sql.session import Database, Dialect, Session
from smithers.store.sql.tables import ensure_table, select_sql
from smithers.store.sql.timed import Timed

T = TypeVar("T")


class SqlStore:
    """A database of runs. Open it with `smithers.store.open_store`. All methods raise `StorageError` when the database
    refuses."""

    def __init__(self, database: Database, path: str) -> None:
        self._database = database
        self._known_tables: set[TableDef] = set()
        self.path = path
        self.dialect: Dialect = database.dialect
        self.write = database.write
        self.awrite = database.awrite
        self.read = database.read
        self.aread = database.aread
        self.watch: Callable[[Callable[[], None]], Callable[[], None]] = database.watch

    def time(self, told: Callable[[str, float], None]) -> None:
        """From now on tell how long each query and each transaction takes, as its caller sees it: `db.query_ms` or
        `db.transaction_ms`, and the milliseconds. Called in whichever thread.
        """
        timed = Timed(self._database, told)
        self.write, self.awrite, self.read, self.aread = timed.write, timed.awrite, timed.read, timed.aread

    def close(self) -> None:
        """Give this reference to the database up."""
        self._database.close()

    async def ensure_tables(self, tables: Sequence[TableDef]) -> None:
        """Make or extend the authors' tables. Raises `IncompatibleSchema`."""
        missing = [table for table in tables if table not in self._known_tables]
        if not missing:
            return

        def job(connection: Session) -> None:
            for table in missing:
                ensure_table(connection, table)

        await self.awrite(job)
        self._known_tables.update(missing)

    async def launch(self, run: NewRun) -> tuple[str, bool]:
        """Store a new run; see `control.launch`. Returns its id and whether it is new. Raises `RunAlreadyExists`."""
        return await self.awrite(lambda c: control.launch(c, run))

    async def claim(
        self,
        run_id: str,
        owner: str,
        now_ms: int,
        *,
        expect_epoch: int,
        events: Sequence[EventDraft],
        keeps_pause: bool = True,
        resumed_by_json: str | None = None,
    ) -> RunRow | None:
        """Take a run over from the state that was read with `expect_epoch`; see `control.claim`. The run as it is then, these
        events in its log; or None if somebody was faster.

        With `resumed_by_json`, who has asked for that is recorded, and requests to take the run over are forgotten.
        """
        return await self.awrite(
            lambda c: control.claim(c, run_id, owner, now_ms, expect_epoch, events, keeps_pause, resumed_by_json)
        )

    async def commit(self, step: Step) -> Committed:
        """Write a step. Raises `LeaseLost`, `CancelRequested`, `NewWakeup` or `LaunchedBefore` when it may not be written."""
        return await self.awrite(lambda c: write_step(c, step))

    async def journal(self, entry: JournalEntry) -> None:
        """Write an entry about a tool call; durable on return. Raises `LeaseLost`, or `CancelRequested` for a beginning."""
        await self.awrite(lambda c: calls.write(c, entry))

    def journal_soon(self, entry: JournalEntry, resolve: Callable[[BaseException | None], None]) -> None:
        """Have an entry written, after what was handed in before and before what is handed in later. `resolve` is told how
        it went, on another thread."""
        self._database.submit(lambda c: calls.write(c, entry), lambda _done, error: resolve(error))

    async def finalize_cancel(self, run_id: str, now_ms: int, fence: tuple[str, int] | None) -> bool:
        """End a run as cancelled; see `control.finalize_cancel`."""
        return await self.awrite(lambda c: control.finalize_cancel(c, run_id, now_ms, fence))

    async def expire(self, run_id: str, keys: Sequence[tuple[str, int]], now_ms: int, fence: tuple[str, int]) -> bool:
        """Close what nobody answered in time; see `control.expire`."""
        return await self.awrite(lambda c: control.expire(c, run_id, keys, now_ms, fence))

    async def release(self, run_id: str, owner: str) -> None:
        """Give up a run that this owner holds but does not drive any more."""
        await self.awrite(lambda c: control.release(c, run_id, owner))

    async def heartbeat(self, owner: str, now_ms: int) -> set[str]:
        """Mark all runs of an owner as alive. Returns their ids."""
        return await self.awrite(lambda c: control.heartbeat(c, owner, now_ms))

    async def decide(
        self,
        run_id: str,
        node_id: str,
        iteration: int,
        now_ms: int,
        judge: Callable[[ApprovalRow], tuple[bool, str | None, str | None, str | None]],
    ) -> ApprovalRow:
        """Record a decision once; see `requests.decide`."""
        return await self.awrite(lambda c: requests.decide(c, run_id, node_id, iteration, now_ms, judge))

    async def answer(
        self, request_id: str, now_ms: int, judge: Callable[[HumanRow], tuple[str, str | None]]
    ) -> HumanRow:
        """Record a person's answer; see `requests.answer`."""
        return await self.awrite(lambda c: requests.answer(c, request_id, now_ms, judge))

    async def signal(
        self,
        run_id: str,
        name: str,
        correlation_id: str | None,
        payload_json: str,
        now_ms: int,
        received_by: str | None,
        idempotency_key: str | None,
    ) -> StoredSignal:
        """Put a signal into a run's mailbox; see `requests.signal`."""
        return await self.awrite(
            lambda c: requests.signal(
                c, run_id, name, correlation_id, payload_json, now_ms, received_by, idempotency_key
            )
        )

    async def request_cancel(self, run_id: str, now_ms: int, source: str) -> RunRow:
        """Ask for a cancellation; see `requests.request_cancel`."""
        return await self.awrite(lambda c: requests.request_cancel(c, run_id, now_ms, source))

    async def request_pause(self, run_id: str, now_ms: int) -> RunRow:
        """Ask for a pause; see `requests.request_pause`."""
        return await self.awrite(lambda c: requests.request_pause(c, run_id, now_ms))

    async def load(self, run_id: str, tables: Sequence[TableDef]) -> LoadedRun:
        """Read everything that is needed to go on. Raises `RunNotFound`."""
        selects = [(table, f"{select_sql(table)} WHERE run_id = ?") for table in tables]
        return await self.aread(lambda c: reads.load(c, run_id, selects))

    async def inbox(self, run_id: str, after_signal: int) -> Inbox:
        """Read what others have written for a run."""
        return await self.aread(lambda c: reads.inbox(c, run_id, after_signal))
