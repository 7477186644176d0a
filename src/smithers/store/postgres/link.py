"""One connection to the server, driven through libpq's pipeline: statements are sent without waiting for those before them.

`Link` sends and receives and knows nothing of transactions; `session.py` makes a `Session` of it. The connection is used
by one thread at a time. Waiting gives other threads their turn.
"""

from __future__ import annotations

import contextlib
import select
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

import psycopg
from psycopg import pq
from psycopg.adapt import Loader, Transformer

from smithers.errors import StorageError, StorageUnreachable
from smithers.store.interface import SqlValue
from smithers.store.postgres.dialect import Statement
from smithers.store.postgres.errors import lost, refusal
from smithers.store.sql.session import Row
from smithers.store.writing import again

MAX_PLANS = 1_000
"""Prepared statements of a connection; beyond that all are forgotten, and those in use are made again."""

MAX_PENDING = 1_000
"""Statements whose outcome has not been read; then it is, so that neither side collects more."""

FLUSH_EVERY = 2
"""After so many statements they are handed to the network, so that the server works while we put the next ones together."""

ESCAPE: Final = "\U0010fffe"
"""PostgreSQL's text has no NUL. This character, which Unicode keeps for nobody, stands before a `0` for it, and before a `1`
for itself."""

_TEXT: Final = 25
_TAGGED: Final = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)
_NO_ROWS: Final[list[Row]] = []


class Answer:
    """What one statement gave, or will have given once it is asked for."""

    __slots__ = ("_at", "_link", "_rows", "is_hint", "number", "plan", "statement")

    def __init__(
        self, link: Link, number: int, statement: Statement | None, plan: str | None = None, *, is_hint: bool = False
    ) -> None:
        self._link = link
        self._rows: list[Row] | None = None
        self._at = 0
        self.is_hint = is_hint
        """Whether nobody minds if it fails."""
        self.plan = plan
        """The statement text that this prepares, if that is what it does."""
        self.statement = statement
        self.number = number
        """The statements of a connection are numbered in the order in which they were sent."""

    def __iter__(self) -> Answer:
        return self

    def __next__(self) -> Row:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    def fetchone(self) -> Row | None:
        """The next row."""
        rows = self._rows
        if rows is None:
            rows = self._link.read_until(self)
        at = self._at
        if at >= len(rows):
            return None
        self._at = at + 1
        return rows[at]

    def fetchall(self) -> list[Row]:
        """All rows that are left."""
        rows = self._rows
        if rows is None:
            rows = self._link.read_until(self)
        left, self._at = rows[self._at :] if self._at else rows, len(rows)
        return left

    def fill(self, rows: list[Row]) -> None:
        """What came back."""
        self._rows = rows

    @property
    def rows(self) -> list[Row]:
        """All rows, once they have been read."""
        assert self._rows is not None
        return self._rows

    @property
    def is_read(self) -> bool:
        """Whether the outcome is known."""
        return self._rows is not None


class Link:
    """A connection in pipeline mode. Owned by whoever made it, and closed by `close`."""

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection
        for type_name, loader in (("numeric", _NumberLoader), ("bool", _FlagLoader), ("xid8", _IntLoader)):
            connection.adapters.register_loader(type_name, loader)
        self._pg = connection.pgconn
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()
        self._poll = select.poll()
        self._poll.register(self._pg.socket, select.POLLIN)
        self._adapt = Transformer(connection)
        self._plans: dict[str, bytes] = {}
        self._numbers = 0
        self._pending: deque[Answer | None] = deque()
        """Statements in the order in which they were sent; None is a point of synchronisation."""
        self._is_synced = True
        """Whether nothing was sent since the last point of synchronisation."""
        self.failure: StorageError | None = None
        """The first error since the last synchronisation; nothing that follows it has been executed."""
        self.is_lost = False
        self.sent = 0
        """The number of the last statement that was sent."""
        self.last_change = 0
        """The number of the last statement that is known to have changed something."""
        self.is_news = False
        """Whether, since this was last set to False, something was changed that others may wait for."""

    @property
    def backend_pid(self) -> int:
        """The server's process for this connection."""
        return self._pg.backend_pid

    def send(self, text: str, statement: Statement, parameters: Sequence[SqlValue] = ()) -> Answer:
        """Send a statement. Its outcome is read when it is asked for, or when something after it is."""
        if self.failure is not None:
            raise again(self.failure)
        if len(parameters) != statement.marks:
            raise StorageError(f"a statement has {statement.marks} parameters and was given {len(parameters)}")
        self.sent += 1
        self._is_synced = False
        answer = Answer(self, self.sent, statement)
        values, formats = _encoded(parameters)
        try:
            if statement.keeps_plan:
                self._pg.send_query_prepared(self._plan(text, statement), values, formats)
            else:
                self._pg.send_query_params(statement.sql, values, None, formats)
        except psycopg.Error as exc:
            raise self._lose(exc) from exc
        self._pending.append(answer)
        if self.sent % FLUSH_EVERY == 0:
            self.flush()
        if len(self._pending) >= MAX_PENDING:
            self.read_all()
        return answer

    def send_many(self, text: str, statement: Statement, rows: Iterable[Sequence[SqlValue]]) -> None:
        """Send a statement for each of these parameters."""
        for parameters in rows:
            self.send(text, statement, parameters)

    def hint(self, sql: bytes) -> None:
        """Send a statement of which nobody needs to know how it went, as a transaction of its own; does not wait."""
        try:
            self._pg.send_query_params(sql, None)
            self._is_synced = False
            self._pending.append(Answer(self, 0, None, is_hint=True))
            self.sync()
            self._pg.flush()
        except psycopg.Error as exc:
            raise self._lose(exc) from exc

    def sync(self) -> None:
        """Ask for everything that was sent to be answered; ends a transaction that was not begun explicitly. What follows is
        executed even if something before failed. Until it has this mark, the server thinks that we are still talking, and
        lets a transaction stand for as long as we like."""
        if self._is_synced:
            return
        try:
            self._pg.pipeline_sync()
        except psycopg.Error as exc:
            raise self._lose(exc) from exc
        self._pending.append(None)
        self._is_synced = True

    def flush(self) -> None:
        """Hand what was sent to the network, as far as it takes it without waiting."""
        try:
            self._pg.flush()
        except psycopg.Error as exc:
            raise self._lose(exc) from exc

    def read_until(self, answer: Answer) -> list[Row]:
        """Wait for the outcome of a statement and of all before it. Raises the first error among them."""
        if not answer.is_read and self.failure is None:
            try:
                self.sync()
                self._push()
                while not answer.is_read and self.failure is None:
                    self._read_next()
            except psycopg.Error as exc:
                raise self._lose(exc) from exc
        if self.failure is not None:
            raise again(self.failure)
        return answer.rows

    def read_all(self) -> None:
        """Wait for everything that was sent. Raises the first error."""
        try:
            self.sync()
            self._push()
            while self._pending:
                self._read_next()
        except psycopg.Error as exc:
            raise self._lose(exc) from exc
        if self.failure is not None:
            raise again(self.failure)

    def recover(self) -> None:
        """After an error: have the pipeline go on, and forget the error. The transaction, if any, is still to be undone."""
        if not self.is_lost:
            self.sync()
            with contextlib.suppress(StorageError):
                self.read_all()
        if self.is_lost:
            raise again(self.failure or lost("it was closed"))
        self.failure = None

    def give_up(self) -> None:
        """Have the connection not be used any more: it is not known how far its answers have been read."""
        self.is_lost = True
        self.failure = self.failure or lost("it was given up")

    def forget_plans(self) -> None:
        """Have every statement prepared anew."""
        self._plans.clear()

    def close(self) -> None:
        """Close the connection; may be called twice."""
        self._connection.close()

    def _plan(self, text: str, statement: Statement) -> bytes:
        name = self._plans.get(text)
        if name is None:
            if len(self._plans) >= MAX_PLANS:
                self._pg.send_query_params(b"DEALLOCATE ALL", None)
                self._pending.append(Answer(self, 0, None))
                self._plans.clear()
            self._numbers += 1
            name = b"s%d" % self._numbers
            self._pg.send_prepare(name, statement.sql)
            self._plans[text] = name
            self._pending.append(Answer(self, 0, None, plan=text))
        return name

    def _push(self) -> None:
        """Send everything, taking in meanwhile what the server says: it may not listen before it is heard."""
        while self._pg.flush():
            self._poll.modify(self._pg.socket, select.POLLIN | select.POLLOUT)
            try:
                ready = self._poll.poll()
            finally:
                self._poll.modify(self._pg.socket, select.POLLIN)
            if any(events & ~select.POLLOUT for _, events in ready):
                self._pg.consume_input()

    def _result(self) -> pq.abc.PGresult | None:
        while self._pg.is_busy():
            self._poll.poll()
            self._pg.consume_input()
        return self._pg.get_result()

    def _read_next(self) -> None:
        """Read the outcome of the oldest statement."""
        result = self._result()
        if result is None:
            raise psycopg.OperationalError(self._pg.get_error_message())
        status = result.status
        answer = self._pending.popleft()
        if answer is None and status == pq.ExecStatus.PIPELINE_SYNC:
            return
        if answer is None:  # the server says good-bye
            raise psycopg.OperationalError(result.get_error_message())
        if status == pq.ExecStatus.TUPLES_OK:
            answer.fill(self._rows(result))
        elif status == pq.ExecStatus.COMMAND_OK:
            answer.fill(_NO_ROWS)
        elif answer.plan is not None:
            self._plans.pop(answer.plan, None)
        if status in _TAGGED:
            statement = answer.statement
            if statement is not None and statement.writes and result.command_tuples != 0:
                self.last_change = answer.number
                self.is_news |= not statement.is_silent
        elif status == pq.ExecStatus.FATAL_ERROR and self.failure is None and not answer.is_hint:
            state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
            message = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace")
            self.failure = refusal(state, message)
            self.is_lost = isinstance(self.failure, StorageUnreachable)
        rest = self._result()
        if rest is not None:
            raise psycopg.OperationalError("the server's answer does not fit to what was asked")

    def _rows(self, result: pq.abc.PGresult) -> list[Row]:
        count = result.ntuples
        if not count:
            return _NO_ROWS
        self._adapt.set_pgresult(result)
        rows = self._adapt.load_rows(0, count, tuple)
        for column in range(result.nfields):
            if result.ftype(column) == _TEXT and any(row[column] is not None and ESCAPE in row[column] for row in rows):
                return [tuple(unescaped(v) if isinstance(v, str) else v for v in row) for row in rows]
        return rows

    def _lose(self, exc: psycopg.Error) -> StorageError:
        """Note that the connection has gone, or cannot be understood any more."""
        self.is_lost = True
        self._pending.clear()
        if self.failure is None or self.failure.__cause__ is None:
            self.failure = lost(str(exc))
        return again(self.failure)


def escaped(text: str) -> str:
    """Text without NUL characters, from which `unescaped` makes the same text again."""
    return text.replace(ESCAPE, ESCAPE + "1").replace("\x00", ESCAPE + "0")


def unescaped(text: str) -> str:
    """The text that `escaped` was given."""
    return text.replace(ESCAPE + "0", "\x00").replace(ESCAPE + "1", ESCAPE)


def _encoded(parameters: Sequence[SqlValue]) -> tuple[list[bytes | None], list[int] | None]:
    """Parameters as libpq takes them. No types are given: the server knows from where each stands, as SQLite does from the
    column, so one prepared statement serves whatever is null."""
    values: list[bytes | None] = []
    formats: list[int] | None = None
    for value in parameters:
        if value is None:
            values.append(None)
        elif isinstance(value, str):
            if "\x00" in value or ESCAPE in value:
                value = escaped(value)
            values.append(value.encode())
        elif isinstance(value, int):
            values.append(b"%d" % value)
        elif isinstance(value, float):
            values.append(repr(value).encode())
        else:
            if formats is None:
                formats = [0] * len(parameters)
            formats[len(values)] = 1
            values.append(bytes(value))
    return values, formats


class _IntLoader(Loader):
    """Numbers that are whole."""

    def load(self, data: bytes | bytearray | memoryview) -> int:
        return int(bytes(data))


class _FlagLoader(Loader):
    """Truth values as SQLite has them."""

    def load(self, data: bytes | bytearray | memoryview) -> int:
        return int(bytes(data) == b"t")


class _NumberLoader(Loader):
    """Sums of whole numbers are whole, averages are not."""

    def load(self, data: bytes | bytearray | memoryview) -> int | float:
        text = bytes(data)
        return int(text) if text.lstrip(b"-").isdigit() else float(text)
