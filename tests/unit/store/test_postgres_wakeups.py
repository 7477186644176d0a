"""Wake-ups whose ids become visible out of order are read all the same: by cursors over all runs, and by a run's owner."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest

from smithers.store import open_store
from smithers.store.interface import NewRun
from smithers.store.sql import control, requests, wakeups
from smithers.store.sql.session import Session
from smithers.store.sql.store import SqlStore

WAKE = "INSERT INTO _smithers_wakeups (run_id) VALUES (%s) RETURNING id"


@pytest.fixture
def store(postgres_url: str) -> Iterator[SqlStore]:
    opened = open_store(postgres_url, durability="normal", busy_timeout_s=5)
    yield opened
    opened.close()


def woken(store: SqlStore, cursor: int) -> wakeups.Woken:
    return store.read(lambda s: wakeups.read_on(s, cursor))


def test_a_wakeup_that_was_numbered_first_and_committed_last_is_not_skipped(store: SqlStore, postgres_url: str) -> None:
    cursor = store.read(wakeups.cursor_now)
    with psycopg.connect(postgres_url) as slow, psycopg.connect(postgres_url) as fast:
        first = slow.execute(WAKE, ("slow",)).fetchone()
        second = fast.execute(WAKE, ("fast",)).fetchone()
        assert first is not None
        assert second is not None
        assert first[0] < second[0]
        fast.commit()
        seen = woken(store, cursor)
        assert seen.run_ids == ["fast"]
        slow.commit()
    assert "slow" in woken(store, seen.cursor).run_ids


def test_a_wakeup_of_an_older_transaction_that_writes_it_late_is_not_skipped(
    store: SqlStore, postgres_url: str
) -> None:
    with psycopg.connect(postgres_url) as old, psycopg.connect(postgres_url) as young:
        old.execute("SELECT pg_current_xact_id()")
        cursor = store.read(wakeups.cursor_now)
        young.execute(WAKE, ("young",))
        young.commit()
        cursor = woken(store, cursor).cursor
        old.execute(WAKE, ("old",))
        old.commit()
    assert "old" in woken(store, cursor).run_ids


def test_a_wakeup_that_was_undone_is_never_read(store: SqlStore, postgres_url: str) -> None:
    cursor = store.read(wakeups.cursor_now)
    with psycopg.connect(postgres_url) as other:
        other.execute(WAKE, ("undone",))
        other.rollback()
    assert woken(store, cursor).run_ids == []


def test_where_nothing_is_open_each_wakeup_is_read_once(store: SqlStore) -> None:
    cursor = store.read(wakeups.cursor_now)
    for n in range(5):
        store.write(lambda s, n=n: s.execute("INSERT INTO _smithers_wakeups (run_id) VALUES (?)", (f"r{n}",)))  # type: ignore[misc]
        found = woken(store, cursor)
        assert found.run_ids == [f"r{n}"]
        cursor = found.cursor
    assert woken(store, cursor).run_ids == []


def test_under_many_writers_a_reader_that_only_reads_on_gets_every_wakeup(store: SqlStore, postgres_url: str) -> None:
    cursor, seen = store.read(wakeups.cursor_now), set[str]()
    writers, each = 4, 40

    def write(number: int) -> None:
        dice = random.Random(number)
        with psycopg.connect(postgres_url) as connection:
            for n in range(each):
                for part in range(dice.randrange(1, 4)):
                    connection.execute(WAKE, (f"{number}-{n}-{part}",))
                if dice.random() < 0.2:
                    connection.rollback()
                else:
                    connection.commit()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found = woken(store, cursor)
        seen.update(found.run_ids)
        cursor = found.cursor
    seen.update(woken(store, cursor).run_ids)
    stored = store.read(lambda s: {str(run_id) for (run_id,) in s.execute("SELECT run_id FROM _smithers_wakeups")})
    assert seen == stored


def test_wakeups_of_one_run_have_ids_in_the_order_of_their_commits(store: SqlStore, postgres_url: str) -> None:
    """What `seen_wakeup` relies on: whoever has seen an id has seen all below it."""
    run_id = "r1"
    run = NewRun(run_id, "w", None, None, "{}", "{}", None, 1)
    store.write(lambda s: control.launch(s, run))
    first = threading.Event()
    may_end = threading.Event()
    other = open_store(
        f"{postgres_url}&application_name=other", durability="normal", busy_timeout_s=5
    )  # as another process
    try:
        order: list[int] = []

        def slow(s: Session) -> None:
            requests.signal(s, run_id, "a", None, "1", 1, None, None)
            first.set()
            assert may_end.wait(60)

        def write(by: SqlStore, job: Callable[[Session], object], number: int) -> None:
            by.write(job)
            order.append(number)

        one = threading.Thread(target=write, args=(store, slow, 1))
        one.start()
        assert first.wait(60)
        fast: Callable[[Session], object] = lambda s: requests.signal(s, run_id, "b", None, "2", 2, None, None)  # noqa: E731
        two = threading.Thread(target=write, args=(other, fast, 2))
        two.start()
        with psycopg.connect(postgres_url, autocommit=True) as watch:
            while True:  # until the second one waits for the first one's run
                row = watch.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()
                if row and row[0]:
                    break
        assert order == []
        may_end.set()
        one.join(10)
        two.join(10)
        ids = store.read(lambda s: s.execute("SELECT id FROM _smithers_wakeups ORDER BY id").fetchall())
        signals = store.read(lambda s: s.execute("SELECT signal_name FROM _smithers_signals ORDER BY seq").fetchall())
    finally:
        may_end.set()
        other.close()
    assert order == [1, 2]
    assert len(ids) == 3
    assert signals == [("a",), ("b",)]
