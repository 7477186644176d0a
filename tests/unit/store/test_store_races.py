"""Jobs of two processes at the same moment: what each has decided still holds when it is committed, and none waits for ever.

SQLite's jobs follow one another, so this is about PostgreSQL, where two addresses of one database are two processes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from smithers.errors import AlreadyDecided, SmithersError
from smithers.events import EventDraft
from smithers.store import open_store
from smithers.store.checking import check
from smithers.store.interface import CancelRequested, LaunchedBefore, NewRun, NewWakeup, RunRow, StatusChange, Step
from smithers.store.sql import control, documents, reads, requests, wakeups
from smithers.store.sql import statements as sql
from smithers.store.sql.commit import write_step
from smithers.store.sql.locks import lock_run
from smithers.store.sql.session import Session
from smithers.store.sql.store import SqlStore

ROUNDS = 12
FIRST, SECOND = "pid:1:x:1:a", "pid:2:x:1:b"
Job = Callable[[Session], object]


@pytest.fixture
def stores(postgres_url: str) -> Iterator[tuple[SqlStore, SqlStore]]:
    """One database, opened by two."""
    found = tuple(
        open_store(f"{postgres_url}&application_name={name}", durability="normal", busy_timeout_s=10)
        for name in ("first", "second")
    )
    yield found  # type: ignore[misc]
    for store in found:
        assert check(store) == []
        store.close()


def at_once(stores: tuple[SqlStore, SqlStore], *jobs: Job) -> list[Any]:
    """What each of two jobs gave or raised that began at the same moment."""
    barrier, found = threading.Barrier(len(jobs)), list[object]([None] * len(jobs))

    def run(number: int) -> None:
        barrier.wait(60)
        try:
            found[number] = stores[number].write(jobs[number])
        except (SmithersError, CancelRequested, LaunchedBefore, NewWakeup) as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def new_run(run_id: str, owner: str | None = FIRST, parent: str | None = None, key: str | None = None) -> NewRun:
    return NewRun(run_id, "w", None, None, "{}", "{}", owner, 1, parent_run_id=parent, idempotency_key=key)


def launch(store: SqlStore, run_id: str, owner: str | None = FIRST, parent: str | None = None) -> None:
    store.write(lambda c: control.launch(c, new_run(run_id, owner, parent)))


def ends(run_id: str, owner: str, status: str = "finished", seen: int | None = None) -> Job:
    """The last step of a run here."""

    def job(c: Session) -> object:
        row = reads.run(c, run_id)
        step = Step(run_id, owner, row.epoch, row.frame_no + 1, 2, seen_wakeup=seen)
        step.events.append(EventDraft("RunStatusChanged"))
        step.status = StatusChange(status, not status.startswith("waiting"))
        return write_step(c, step)

    return job


def run_of(store: SqlStore, run_id: str) -> RunRow:
    return store.read(lambda c: reads.run(c, run_id))


@pytest.mark.parametrize("same_id", [False, True])
def test_two_launches_with_one_key_make_one_run(stores: tuple[SqlStore, SqlStore], same_id: bool) -> None:
    for n in range(ROUNDS):
        names = [f"r{n}", f"r{n}" if same_id else f"s{n}"]
        found = at_once(stores, *(partial(control.launch, run=new_run(name, key=f"k{n}")) for name in names))
        assert sorted(is_new for _, is_new in found) == [False, True]
        assert len({run_id for run_id, _ in found}) == 1
    assert len(stores[0].read(lambda c: reads.runs(c, (), 999))) == ROUNDS


def test_one_of_two_claims_wins(stores: tuple[SqlStore, SqlStore]) -> None:
    launch(stores[0], "r", owner=None)

    def take(c: Session, owner: str, epoch: int) -> object:
        claimed = control.claim(c, "r", owner, 1, epoch, ())
        return None if claimed is None else claimed.epoch

    for n in range(1, ROUNDS):
        found = at_once(stores, *(partial(take, owner=owner, epoch=n) for owner in (FIRST, SECOND)))
        assert sorted(found, key=str) == sorted([None, n + 1], key=str)
        assert run_of(stores[0], "r").runtime_owner_id == (FIRST if found[0] is not None else SECOND)


def test_a_decision_is_taken_once_and_not_after_the_end(stores: tuple[SqlStore, SqlStore]) -> None:
    for n in range(ROUNDS):
        run_id = f"r{n}"
        launch(stores[0], run_id, owner=None)
        row = (run_id, "n", 0, "requested", "w", 1, None, None, None, "{}", None, 0, 0, None)
        stores[0].write(lambda c, row=row: c.execute(sql.ROWS["approval"], row).fetchall())  # type: ignore[misc]
        decide = partial(
            requests.decide,
            run_id=run_id,
            node_id="n",
            iteration=0,
            now_ms=2,
            judge=lambda _: (True, None, "ann", None),
        )
        end: Job = lambda c, run_id=run_id: control.finalize_cancel(c, run_id, 2, None)  # type: ignore[misc]  # noqa: E731

        found = at_once(stores, decide, decide if n % 2 else end)

        told = [e.type for e in stores[0].read(lambda c, r=run_id: reads.events(c, r, -1, 99))]  # type: ignore[misc]
        assert len([kind for kind in told if kind in ("ApprovalGranted", "ApprovalDenied")]) == 1
        if n % 2:
            assert len([error for error in found if isinstance(error, AlreadyDecided)]) == 1


def test_a_child_that_is_launched_while_its_parent_is_asked_to_pause_pauses_too(
    stores: tuple[SqlStore, SqlStore],
) -> None:
    for n in range(ROUNDS):
        parent, child = f"r{n}", f"r{n}:child:sub:0"
        launch(stores[0], parent)
        at_once(
            stores,
            lambda c, child=child, parent=parent: control.launch(c, new_run(child, FIRST, parent)),  # type: ignore[misc]
            lambda c, parent=parent: requests.request_pause(c, parent, 5),  # type: ignore[misc]
        )
        assert run_of(stores[0], child).pause_requested_at_ms == 5


def test_the_end_of_a_child_is_not_lost_to_a_parent_that_parks_meanwhile(stores: tuple[SqlStore, SqlStore]) -> None:
    parent, child = "r", "r:child:sub:0"
    launch(stores[0], parent)
    launch(stores[1], child, SECOND, parent)
    written, may_commit = threading.Event(), threading.Event()
    status_that_was_seen: list[str] = []

    def end(c: Session) -> None:
        ends(child, SECOND)(c)
        reads.run(c, child)  # the wake-up has its number, and nobody sees it yet
        written.set()
        assert may_commit.wait(60)

    def wake(c: Session) -> None:  # as whoever writes for a run
        lock_run(c, parent)
        c.execute(sql.WAKEUP, (parent,))

    def park() -> None:
        stores[0].write(wake)
        seen = stores[0].read(lambda c: reads.inbox(c, parent, -1)).last_wakeup
        status_that_was_seen.append(run_of(stores[0], child).status)
        stores[0].write(ends(parent, FIRST, "waiting-event", seen))

    ending = threading.Thread(target=stores[1].write, args=(end,))
    parking = threading.Thread(target=park)
    ending.start()
    assert written.wait(60)
    parking.start()
    while parking.is_alive() and not stores[1].read(_somebody_waits):
        pass
    may_commit.set()
    ending.join(10)
    parking.join(10)

    moved = stores[0].read(lambda c: wakeups.moved_runs(c, 9, lambda _: True))
    assert status_that_was_seen == ["finished"] or moved == [parent]


def _somebody_waits(c: Session) -> bool:
    return bool(c.execute("SELECT 1 FROM pg_locks WHERE NOT granted LIMIT 1").fetchall())


def test_signs_of_life_pauses_cancellations_and_ends_of_a_family_do_not_lock_each_other_out(
    stores: tuple[SqlStore, SqlStore],
) -> None:
    for n in range(ROUNDS):
        family = [f"r{n}", f"r{n}:child:sub:0", f"r{n}:child:sub:0:child:sub:0"]
        for above, run_id in zip([None, *family], family, strict=False):
            launch(stores[0], run_id, FIRST, above)

        def whole(c: Session, root: str = family[0], n: int = n) -> object:
            return requests.request_pause(c, root, 5) if n % 2 else control.finalize_cancel(c, root, 5, (FIRST, 1))

        def all_of_them(c: Session, family: list[str] = family) -> object:
            alive = control.heartbeat(c, FIRST, 5)
            return alive, [ends(run_id, FIRST)(c) for run_id in reversed(family[1:])]

        found = at_once(stores, whole, all_of_them)

        assert not [e for e in found if isinstance(e, SmithersError) and not isinstance(e, CancelRequested)], found


def test_a_heartbeat_tells_all_runs_also_one_that_a_job_has_locked(stores: tuple[SqlStore, SqlStore]) -> None:
    for run_id in ("a", "b"):
        launch(stores[0], run_id)
    held, may_end = threading.Event(), threading.Event()

    def hold(c: Session) -> None:
        requests.request_pause(c, "a", 1)
        reads.run(c, "a")
        held.set()
        assert may_end.wait(60)

    holding = threading.Thread(target=stores[1].write, args=(hold,))
    holding.start()
    assert held.wait(60)
    try:
        assert stores[0].write(lambda c: control.heartbeat(c, FIRST, 9)) == {"a", "b"}
        assert [run_of(stores[0], run_id).heartbeat_at_ms for run_id in ("a", "b")] == [1, 9]
    finally:
        may_end.set()
        holding.join(10)


def test_of_two_changes_of_a_document_none_is_lost(stores: tuple[SqlStore, SqlStore]) -> None:
    row = documents.DocRow("a", "ticket", "", "", None, 1, None)
    stores[0].write(lambda c: documents.put(c, row))

    def append(letter: str) -> Job:
        def job(c: Session) -> None:
            documents.lock(c)
            found = documents.get(c, "a")
            assert found is not None
            documents.put(c, found._replace(content=found.content + letter))

        return job

    for _ in range(ROUNDS):
        at_once(stores, append("x"), append("y"))
    stored = stores[0].read(lambda c: documents.get(c, "a"))
    assert stored is not None
    assert sorted(stored.content) == ["x"] * ROUNDS + ["y"] * ROUNDS
