"""Taking runs that are woken: each by one of those who try, for a moment, and only while it can still go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from smithers.store import open_store
from smithers.store.interface import NewRun
from smithers.store.sql import control, wakeups
from smithers.store.sql.session import Session
from smithers.store.sql.store import SqlStore

BOTH_DATABASES = True
NOW = 1_000_000
LATER = NOW + wakeups.HOLD_MS


def fill(c: Session) -> None:
    """Parked runs `a` to `d`, of which something has arrived for `a` and `b`, and `c` is due."""
    for run_id in "abcd":
        control.launch(c, NewRun(run_id, "w", None, None, "{}", "{}", None, NOW, status="waiting-event"))
        c.execute("UPDATE _smithers_runs SET seen_wakeup = 1000000 WHERE run_id = ?", (run_id,)).fetchall()
    c.execute("UPDATE _smithers_runs SET seen_wakeup = 0 WHERE run_id IN ('a', 'b')").fetchall()
    c.execute(
        "INSERT INTO _smithers_timers (run_id, node_id, iteration, kind, due_at_ms) VALUES ('c', 'n', 0, 'timer', ?)",
        (NOW,),
    ).fetchall()


@pytest.fixture
def store(db: str) -> Iterator[SqlStore]:
    """A database with these runs."""
    found = open_store(db, durability="normal")
    found.write(fill)
    yield found
    found.close()


def take(store: SqlStore, *run_ids: str, now: int = NOW) -> list[str]:
    return sorted(store.write(lambda c: wakeups.take(c, run_ids, now)))


def found(store: SqlStore, now: int = NOW) -> tuple[list[str], bool]:
    def look(c: Session) -> tuple[list[str], bool]:
        holds = wakeups.Holds(now)
        runs = [*wakeups.moved_runs(c, 9, bool, holds), *wakeups.due_runs(c, now, 9, bool, holds)]
        return sorted(runs), holds.are_met

    return store.read(look)


def test_what_is_taken_is_taken_once_and_not_found_until_the_hold_is_over(store: SqlStore) -> None:
    assert found(store) == (["a", "b", "c"], False)
    assert take(store, *"abcd") == ["a", "b", "c"]
    assert take(store, *"abcd") == []
    assert found(store, LATER - 1) == ([], True)
    assert found(store, LATER) == (["a", "b", "c"], False)
    assert take(store, "a", now=LATER) == ["a"]
    assert take(store, now=LATER) == []


def test_what_was_left_can_be_taken_at_once_and_another_ones_hold_is_let_be(store: SqlStore) -> None:
    assert take(store, "a", "b") == ["a", "b"]
    store.write(lambda c: wakeups.leave(c, ["a"], NOW))
    store.write(lambda c: wakeups.leave(c, ["b"], NOW - 1))
    assert found(store) == (["a", "c"], True)


def test_a_run_that_somebody_has_claimed_or_that_has_parked_again_is_not_taken(store: SqlStore) -> None:
    assert store.write(lambda c: control.claim(c, "a", "o", NOW, 1, ())) is not None
    store.write(lambda c: c.execute("UPDATE _smithers_runs SET seen_wakeup = 1000000 WHERE run_id = 'b'").fetchall())
    store.write(lambda c: c.execute("UPDATE _smithers_runs SET status = 'paused' WHERE run_id = 'c'").fetchall())
    assert take(store, *"abcd") == []


def test_a_clock_that_is_far_ahead_holds_nothing_back(store: SqlStore) -> None:
    assert take(store, "a", now=NOW + 300_000) == ["a"]
    assert found(store)[0] == ["a", "b", "c"]
    assert take(store, "a") == ["a"]


def test_a_run_that_was_given_up_can_be_taken_at_once(store: SqlStore) -> None:
    assert store.write(lambda c: control.claim(c, "a", "o", NOW, 1, ())) is not None
    store.write(lambda c: control.release(c, "a", "o"))
    assert take(store, "a") == ["a"]


def test_on_postgresql_what_somebody_is_just_taking_is_skipped_and_not_waited_for(postgres_url: str) -> None:
    has_taken, may_commit = threading.Event(), threading.Event()

    def slowly(c: Session) -> set[str]:
        taken = wakeups.take(c, ["a"], NOW)
        has_taken.set()
        assert may_commit.wait(30)
        return taken

    ours, other = (
        open_store(f"{postgres_url}&application_name={name}", durability="normal") for name in ("ours", "other")
    )
    try:
        ours.write(fill)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(other.write, slowly)
            assert has_taken.wait(30)
            assert take(ours, "a", "b") == ["b"]
            may_commit.set()
            assert first.result(30) == {"a"}
    finally:
        may_commit.set()
        ours.close()
        other.close()
