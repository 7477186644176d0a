"""`db`: brings a database's schema up to date, checks what it holds, copies it into another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from smithers.cli.common import DB_NAME, Common, find_database
from smithers.cli.options import Option
from smithers.cli.output import printable
from smithers.errors import InvalidInput, StorageError, StoreNotFound

if TYPE_CHECKING:
    from smithers.cli.output import Output
    from smithers.store.sql.store import SqlStore


def db_migrate(*, common: Common | None = None) -> int:
    """Make the database if it is not there, and bring its schema up to date.

    Every command does so when it opens a database. This one is for whoever wants it done before: with the rights to change
    tables, and before the first process of a new version starts.
    """
    common = common or Common()
    try:
        name = find_database(common.settings)
    except StoreNotFound:
        name = DB_NAME
    store = _opened(common, name, create=True)
    try:
        steps = store.read(
            lambda c: c.execute("SELECT id, name FROM _smithers_schema_migrations ORDER BY id").fetchall()
        )
    finally:
        store.close()
    out = common.output
    if out.is_text:
        out.line(f"{printable(store.path)}: schema {steps[-1][0]} ({str(steps[-1][1]).replace('_', ' ')})")
    else:
        out.document({"db": store.path, "dialect": store.dialect, "migrations": [str(row[0]) for row in steps]})
    return 0


def db_check(*, common: Common | None = None) -> int:
    """Look whether what the database holds is sound. Reads all of it; exits with 1 if something is wrong."""
    from smithers.store.checking import check

    common = common or Common()
    store = _opened(common, find_database(common.settings))
    try:
        found = check(store)
    finally:
        store.close()
    out = common.output
    if not out.is_text:
        out.document({"db": store.path, "isSound": not found, "findings": found})
    elif not found:
        out.line(f"{printable(store.path)} is sound")
    for line in found if out.is_text else ():
        out.line(printable(line))
    return 1 if found else 0


def db_copy(
    source: str,
    target: str,
    /,
    *,
    live: Annotated[bool, Option(is_switch=True)] = False,
    common: Common | None = None,
) -> int:
    """Copy everything into a new database, of either kind, and compare the two.

    Parameters
    ----------
    source
        The path of a SQLite file, or a postgresql:// URL.
    target
        The same; a database that holds nothing yet.
    live
        Copy although runs are being driven in the source. They go on there, and not in the copy.
    """
    from smithers.store import copying

    common = common or Common()
    if source == target:
        raise InvalidInput("the source and the target are the same database", {"db": printable(source)})
    out = common.output
    one = _opened(common, source)
    try:
        if not live and (driven := _driven(one)):
            raise StorageError(
                f"{driven} runs of the source are being driven right now: end those processes first (runs that wait may "
                "wait), or copy as it is at this moment with --live",
                {"runs": driven},
            )
        other = _opened(common, target, create=True)
        try:
            counts = copying.copy_store(one, other, _Shown(out, "copied"))
            differing = copying.compare(one, other, _Shown(out, "compared"))
        finally:
            other.close()
    finally:
        one.close()
    _report(out, counts, differing, other.path)
    return 1 if differing else 0


class _Shown:
    """Notes each table once it has many rows, on standard error."""

    EVERY = 50_000

    def __init__(self, out: Output, verb: str) -> None:
        self._out = out
        self._verb = verb
        self._last = ("", 0)

    def __call__(self, table: str, rows: int) -> None:
        """So many rows of a table have been dealt with."""
        before = self._last[1] if self._last[0] == table else 0
        if rows // self.EVERY > before // self.EVERY:
            self._out.note(f"{self._verb} {rows:,} rows of {printable(table)}")
        self._last = (table, rows)


def _report(out: Output, counts: dict[str, int], differing: list[str], target: str) -> None:
    total = sum(counts.values())
    if not out.is_text:
        out.document({"db": target, "rows": total, "tables": counts, "isSame": not differing, "differences": differing})
        return
    if differing:
        for line in differing:
            out.line(printable(line))
        return
    filled = {name: count for name, count in counts.items() if count}
    out.table(("TABLE", "ROWS"), [(printable(name), f"{count:,}") for name, count in filled.items()])
    out.line(f"{total:,} rows copied to {printable(target)}; both hold the same")


def _driven(store: SqlStore) -> int:
    """How many runs somebody drives who is alive, as far as can be told."""
    import time

    from smithers.engine import leases
    from smithers.store.sql import reads

    now = time.time_ns() // 1_000_000
    runs = store.read(lambda c: reads.runs(c, ("running",), 10_000))
    return sum(not leases.is_mirror(run) and not leases.may_take_over(run, now) for run in runs)


def _opened(common: Common, name: str, *, create: bool = False) -> SqlStore:
    from smithers.store import open_store

    settings = common.settings
    return open_store(name, create=create, busy_timeout_s=settings.busy_timeout_s, pool=settings.db_pool)
