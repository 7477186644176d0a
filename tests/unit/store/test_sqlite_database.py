"""Opening, sharing, reading, and hearing of other processes' commits."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from smithers.errors import StorageBusy, StorageCorrupt, StorageError, StorageReadOnly, StoreNotFound
from smithers.store.sqlite.database import MAX_READERS, Database

CHILD = """
import sys
from pathlib import Path
from smithers.store.sqlite.database import Database
path, migrations = Path(sys.argv[1]), Path(sys.argv[2])
database = Database.open(path, migrations=migrations)
"""


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_first.sql").write_text("CREATE TABLE t (n INTEGER NOT NULL) STRICT;")
    return folder


@pytest.fixture
def database(tmp_path: Path, migrations: Path) -> Iterator[Database]:
    opened = Database.open(tmp_path / "store.db", migrations=migrations, busy_timeout_s=0.05)
    yield opened
    opened.close()


def child(script: str, database: Database, migrations: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + script, str(database.path), str(migrations)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def put(connection: apsw.Connection) -> None:
    connection.execute("INSERT INTO t VALUES (1)")


def put_many(connection: apsw.Connection) -> None:
    connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(5_000)])


def count(connection: apsw.Connection) -> int:
    return int(str(connection.execute("SELECT count(*) FROM t").get))


def test_a_path_is_opened_once_whatever_it_is_called(tmp_path: Path, migrations: Path, database: Database) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "store.db")
    again = Database.open(tmp_path / "link.db", migrations=migrations)
    assert again is database
    again.close()
    database.write(put)  # one reference is left


def test_the_last_close_tidies_the_wal_away_and_the_file_opens_again(tmp_path: Path, migrations: Path) -> None:
    first = Database.open(tmp_path / "s.db", migrations=migrations)
    first.write(put)
    first.read(count)
    unsubscribe = first.watch(lambda: None)
    first.close()
    unsubscribe()
    assert not (tmp_path / "s.db-wal").exists()
    second = Database.open(tmp_path / "s.db", create=False, migrations=migrations)
    assert second is not first
    assert second.read(count) == 1
    second.close()


def test_a_store_that_must_exist_and_does_not_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound):
        Database.open(tmp_path / "none.db", create=False)
    assert not (tmp_path / "none.db").exists()


def test_a_directory_in_place_of_the_file_is_reported_as_not_writable(tmp_path: Path) -> None:
    with pytest.raises(StorageReadOnly, match=tmp_path.name):
        Database.open(tmp_path)


def test_a_folder_that_is_not_there_is_reported_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(StorageReadOnly, match="nowhere"):
        Database.open(tmp_path / "nowhere" / "store.db")


@pytest.mark.parametrize("content", [b"not a database, but long enough to look like one " * 100, b"\x00" * 4096])
def test_a_file_full_of_garbage_is_reported_and_left_alone(tmp_path: Path, migrations: Path, content: bytes) -> None:
    (tmp_path / "garbage.db").write_bytes(content)
    with pytest.raises(StorageCorrupt):
        Database.open(tmp_path / "garbage.db", migrations=migrations)
    assert (tmp_path / "garbage.db").read_bytes() == content


def test_a_damaged_page_is_reported_as_corruption(tmp_path: Path, migrations: Path) -> None:
    path = tmp_path / "damaged.db"
    opened = Database.open(path, migrations=migrations)
    opened.write(put_many)
    opened.close()
    content = bytearray(path.read_bytes())
    content[3 * 4096 :] = b"\xff" * (len(content) - 3 * 4096)
    path.write_bytes(content)
    opened = Database.open(path, migrations=migrations)
    with pytest.raises(StorageCorrupt):
        opened.read(lambda c: c.execute("SELECT sum(n) FROM t").get)
    opened.close()


def test_a_write_lock_held_by_another_process_becomes_busy_after_the_timeout(
    database: Database, migrations: Path
) -> None:
    script = """
def hold(connection):
    connection.execute("INSERT INTO t VALUES (0)")
    print("held", flush=True)
    sys.stdin.readline()
database.write(hold)
print("done", flush=True)
"""
    with child(script, database, migrations) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        with pytest.raises(StorageBusy):
            database.write(put)
        assert database.read(count) == 0  # readers do not wait for a writer
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
        database.write(put)
        process.stdin.close()
    assert database.read(count) == 2


def test_a_query_sees_one_snapshot(database: Database) -> None:
    def twice(connection: apsw.Connection) -> tuple[int, int]:
        before = count(connection)
        database.write(put)
        return before, count(connection)

    assert database.read(twice) == (0, 0)
    assert database.read(count) == 1


def test_a_query_cannot_write(database: Database) -> None:
    with pytest.raises(StorageReadOnly):
        database.read(put)


def test_an_escaped_cursor_does_not_hold_the_next_reader_in_the_past(database: Database) -> None:
    database.write(put_many)
    escaped = database.read(lambda c: c.execute("SELECT n FROM t"))
    database.write(put)
    assert database.read(count) == 5_001
    del escaped


def test_readers_are_bounded_and_all_of_them_are_served(database: Database) -> None:
    database.write(put)
    running, most = 0, 0
    lock = threading.Lock()
    together = threading.Barrier(MAX_READERS)

    def slow(connection: apsw.Connection) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(60)
        with lock:
            running -= 1
        return count(connection)

    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(database.read(slow))) for _ in range(3 * MAX_READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == [1] * 3 * MAX_READERS
    assert most <= MAX_READERS


def test_a_coroutine_reads_what_it_wrote(database: Database) -> None:
    async def main() -> int:
        await database.awrite(put)
        return await database.aread(count)

    assert asyncio.run(main()) == 1


def test_full_durability_wins_over_normal_on_a_shared_file(tmp_path: Path, migrations: Path) -> None:
    first = Database.open(tmp_path / "s.db", migrations=migrations, durability="normal")
    assert first.write(lambda c: c.execute("PRAGMA synchronous").get) == 1
    second = Database.open(tmp_path / "s.db", migrations=migrations)
    assert second.write(lambda c: c.execute("PRAGMA synchronous").get) == 2
    first.close()
    second.close()


def test_a_file_replaced_while_open_is_not_mistaken_for_the_open_one(tmp_path: Path, migrations: Path) -> None:
    first = Database.open(tmp_path / "s.db", migrations=migrations)
    (tmp_path / "s.db").rename(tmp_path / "moved.db")
    with pytest.raises(StorageError, match="replaced"):
        Database.open(tmp_path / "s.db", migrations=migrations)
    (tmp_path / "moved.db").rename(tmp_path / "s.db")
    first.close()


def test_a_forked_child_refuses_the_parents_database(tmp_path: Path, migrations: Path) -> None:
    script = (
        CHILD
        + """
import asyncio
import os
from smithers.errors import StorageError
database.write(lambda c: c.execute("INSERT INTO t VALUES (1)") and None)
asyncio.run(database.aread(lambda c: 1))  # its thread waits for more, and the child has no such thread
unsubscribe = database.watch(lambda: None)
child = os.fork()
if child == 0:
    refused = 0
    for attempt in (
        lambda: database.write(lambda c: 1),
        lambda: database.read(lambda c: 1),
        lambda: asyncio.run(asyncio.wait_for(database.aread(lambda c: 1), 5)),
        lambda: Database.open(path, migrations=migrations),
    ):
        try:
            attempt()
        except StorageError:
            refused += 1
    unsubscribe()
    other = Database.open(path.with_name("other.db"), migrations=migrations)
    other.write(lambda c: c.execute("INSERT INTO t VALUES (1)") and None)
    other.close()
    os._exit(refused)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 4, status
database.write(lambda c: c.execute("INSERT INTO t VALUES (2)") and None)
database.close()
"""
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "s.db"), str(migrations)], check=True, timeout=60)


def test_a_process_that_forgets_to_close_leaves_a_tidy_file(tmp_path: Path, migrations: Path) -> None:
    script = CHILD + 'database.submit(lambda c: c.execute("INSERT INTO t VALUES (1)") and None, lambda r, e: None)\n'
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "s.db"), str(migrations)], check=True, timeout=60)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["migrations", "s.db"]
    opened = Database.open(tmp_path / "s.db", migrations=migrations)
    assert opened.read(count) == 1
    opened.close()


# ── notification ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_commit_of_another_process_is_heard_of(database: Database, migrations: Path) -> None:
    heard = threading.Event()
    database.watch(heard.set)
    script = """
for line in sys.stdin:
    database.write(lambda c: c.execute("INSERT INTO t VALUES (1)") and None)
    print("written", flush=True)
database.close()
"""
    with child(script, database, migrations) as process:
        assert process.stdin
        assert process.stdout
        for n in range(1, 31):
            process.stdin.write("\n")
            process.stdin.flush()
            while database.read(count) < n:  # the last word: a commit is never visible without a call to come
                assert heard.wait(60)
                heard.clear()
            assert process.stdout.readline() == "written\n"
        process.stdin.close()


def test_a_subscriber_that_reads_when_called_misses_nothing(database: Database) -> None:
    seen, done = [0], threading.Event()

    def look() -> None:
        seen.append(database.read(count))
        if seen[-1] == 300:
            done.set()

    database.watch(look)
    for _ in range(300):
        database.write(put)
    assert done.wait(60)
    assert seen == sorted(seen)


def test_commits_are_heard_of_where_the_kernel_does_not_report_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(path: str) -> None:
        return None

    monkeypatch.setattr("smithers.store.sqlite.notify._WalEvents.open", unavailable)
    heard = threading.Semaphore(0)
    leave = database.watch(lambda: heard.release())
    for _ in range(3):
        database.write(put)
        assert heard.acquire(timeout=60)
    leave()


def test_a_callback_that_raises_is_logged_and_called_again(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    calls = threading.Semaphore(0)

    def fail() -> None:
        calls.release()
        raise ValueError("broken callback")

    database.watch(fail)
    for _ in range(2):
        database.write(put)
        assert calls.acquire(timeout=60)
    database.close()  # ends the thread, so that its log is complete
    assert "broken callback" in caplog.text


def test_the_thread_lives_as_long_as_anyone_watches(database: Database) -> None:
    def threads() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name == f"smithers-watch {database.path.name}"]

    before = len(threads())
    leave_first, leave_second = database.watch(lambda: None), database.watch(lambda: None)
    assert len(threads()) == before + 1
    leave_first()
    leave_first()
    assert len(threads()) == before + 1
    leave_second()
    assert len(threads()) == before


def test_a_callback_may_end_its_own_subscription(database: Database) -> None:
    left = threading.Event()

    def leave_at_once() -> None:
        leave()
        left.set()

    leave = database.watch(leave_at_once)
    database.write(put)
    assert left.wait(60)
