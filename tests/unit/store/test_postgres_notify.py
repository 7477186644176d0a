"""Commits are heard by everybody, soon; what is said while nobody can hear is not missed."""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
from tests.postgres_support import PostgresServer

from smithers.errors import StorageError
from smithers.store.postgres import notify
from smithers.store.postgres.database import Database
from smithers.store.sql.session import SILENT

MARGIN_S = 60


@pytest.fixture
def database(empty_postgres_url: str) -> Iterator[Database]:
    opened = Database.open(empty_postgres_url, durability="normal", busy_timeout_s=5, pool=2)
    opened.write(lambda s: s.execute("CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT"))
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def no_safety(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is called is called for a reason."""
    monkeypatch.setattr(notify, "SAFETY_S", 600.0)


def tell(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(notify.NOTIFY)


def test_a_commit_of_this_process_is_heard(database: Database) -> None:
    heard = threading.Event()
    end = database.watch(heard.set)
    database.write(lambda s: s.execute("INSERT INTO t (n) VALUES (1)"))
    assert heard.wait(MARGIN_S)
    end()
    end()


def test_what_has_changed_nothing_and_what_is_silent_is_not_told(database: Database, empty_postgres_url: str) -> None:
    heard = threading.Semaphore(0)
    database.write(lambda s: s.execute("INSERT INTO t (n) VALUES (1)"))
    end = database.watch(heard.release)
    with psycopg.connect(empty_postgres_url, autocommit=True) as other:
        other.execute("LISTEN smithers")
        list(other.notifies(timeout=0.05))
        database.write(lambda s: s.execute("UPDATE t SET n = 2 WHERE n = 77"))
        database.write(lambda s: s.execute(f"UPDATE {SILENT} t SET n = 2 WHERE n = 1"))
        database.write(lambda s: s.execute("SELECT n FROM t").fetchall())
        other.execute("NOTIFY smithers, 'end'")
        told = next(other.notifies(timeout=MARGIN_S))
    assert told.payload == "end"
    end()


def test_another_process_is_heard_soon(database: Database, empty_postgres_url: str) -> None:
    heard: list[float] = []
    more = threading.Semaphore(0)

    def note() -> None:
        heard.append(time.time())
        more.release()

    end = database.watch(note)
    program = """
import sys, time
from smithers.store import open_store
store = open_store(sys.argv[1], durability="normal")
for n in range(40):
    sys.stdin.readline()
    store.write(lambda s: s.execute("INSERT INTO t (n) VALUES (?)", (n,)))
    print(time.time(), flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, empty_postgres_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    late: list[float] = []
    for _ in range(40):
        process.stdin.write("go\n")
        process.stdin.flush()
        committed_at = float(process.stdout.readline())
        assert more.acquire(timeout=MARGIN_S)
        late.append(heard[-1] - committed_at)
        while more.acquire(timeout=0.01):
            pass
    process.stdin.close()
    assert process.wait(MARGIN_S) == 0
    process.stdout.close()
    end()
    assert statistics.median(late) < 0.05, late  # about a millisecond where nothing else runs


def test_a_connection_that_was_cut_off_listens_again_and_calls_for_what_it_may_have_missed(
    database: Database, postgres_server: PostgresServer, empty_postgres_url: str
) -> None:
    heard = threading.Semaphore(0)
    end = database.watch(heard.release)
    postgres_server.cut(database.address.name)
    assert heard.acquire(timeout=MARGIN_S)  # nothing was told: it is the call after the new connection
    while heard.acquire(timeout=0.05):
        pass
    tell(empty_postgres_url)
    assert heard.acquire(timeout=MARGIN_S)
    end()


def test_a_lost_notification_is_made_up_for_by_the_safety_look(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "SAFETY_S", 0.02)
    heard = threading.Semaphore(0)
    end = database.watch(heard.release)
    assert all(heard.acquire(timeout=MARGIN_S) for _ in range(3))
    end()


def test_many_commits_share_calls_and_the_last_one_is_never_missed(database: Database) -> None:
    seen: list[int] = []
    done = threading.Event()

    def look() -> None:
        seen.append(database.read(lambda s: len(s.execute("SELECT n FROM t").fetchall())))
        if seen[-1] == 300:
            done.set()

    end = database.watch(look)
    for n in range(300):
        database.write(lambda s, n=n: s.execute("INSERT INTO t (n) VALUES (?)", (n,)))  # type: ignore[misc]
    assert done.wait(MARGIN_S)
    assert len(seen) <= 301
    end()


def test_a_callback_that_fails_does_not_keep_the_others_from_being_called(
    database: Database, empty_postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard = threading.Semaphore(0)

    def failing() -> None:
        raise ValueError("mine")

    ends = [database.watch(failing), database.watch(heard.release)]
    for _ in range(2):
        tell(empty_postgres_url)
        assert heard.acquire(timeout=MARGIN_S)
    for end in ends:
        end()
    assert "a callback on a commit failed" in caplog.text


def test_a_callback_may_end_its_own_watch(database: Database, empty_postgres_url: str) -> None:
    ended = threading.Event()

    def once() -> None:
        end()
        ended.set()

    end = database.watch(once)
    tell(empty_postgres_url)
    assert ended.wait(MARGIN_S)
    database.watch(lambda: None)()


def test_a_closed_database_cannot_be_watched(empty_postgres_url: str) -> None:
    database = Database.open(empty_postgres_url, durability="normal", busy_timeout_s=5, pool=2)
    database.watch(lambda: None)
    database.close()
    with pytest.raises(StorageError, match="closed"):
        database.watch(lambda: None)
