"""The queue: priorities first, lanes in turn, the oldest of a lane; limits of queues and workflows hold over all hosts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smithers.errors import QuotaExceeded, RunAlreadyExists
from smithers.store import open_store
from smithers.store.interface import NewRun
from smithers.store.sql import control, limits, queue
from smithers.store.sql.limits import Limit
from smithers.store.sql.store import SqlStore

BOTH_DATABASES = True
NOW = 1_000_000


@pytest.fixture
def store(db: str) -> Iterator[SqlStore]:
    found = open_store(db, durability="normal")
    yield found
    found.close()


def put(store: SqlStore, run_id: str, *, workflow: str = "w", queue_name: str = "default", priority: int = 0) -> None:
    run = NewRun(run_id, workflow, None, None, "{}", "{}", None, NOW, queue=queue_name)
    store.write(lambda c: queue.enqueue(c, run, None, priority))


def taken(
    store: SqlStore, room: int = 100, *, now: int = NOW, turns: dict[str, int] | None = None, only: str | None = None
) -> list[str]:
    found = store.write(
        lambda c: queue.take(
            c,
            now,
            room,
            is_wanted=lambda _: True,
            serves=lambda workflow, _queue: only is None or workflow == only,
            last_turns={} if turns is None else turns,
        )
    )
    if turns is not None:
        for waiting in found.runs:
            turns[waiting.lane] = max(turns.values(), default=0) + 1
    return [waiting.run_id for waiting in found.runs]


def start(store: SqlStore, *run_ids: str) -> None:
    """Have somebody drive runs."""
    for run_id in run_ids:
        assert store.write(lambda c, run_id=run_id: control.claim(c, run_id, "o", NOW, 1, ())) is not None  # type: ignore[misc]
    store.write(lambda c: queue.done(c, run_ids))


def end(store: SqlStore, run_id: str) -> None:
    store.write(lambda c: control.finalize_cancel(c, run_id, NOW, ("o", 2)))


def limit(store: SqlStore, name: str, concurrency: int | None = None, rate: tuple[int, int] | None = None) -> None:
    count, period = rate or (None, None)
    store.write(lambda c: limits.put(c, Limit(name, concurrency, count, period), NOW))


def test_the_highest_priority_is_first_and_the_oldest_within_one(store: SqlStore) -> None:
    for run_id, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", -1)):
        put(store, run_id, priority=priority)
    assert taken(store) == ["b", "d", "a", "c", "e"]


def test_workflows_take_turns_however_many_runs_of_one_were_there_before(store: SqlStore) -> None:
    for index in range(10):
        put(store, f"flood{index}", workflow="flood")
    put(store, "rare0", workflow="rare")
    put(store, "rare1", workflow="rare")
    turns: dict[str, int] = {}
    first = [run_id for _ in range(4) for run_id in taken(store, 1, turns=turns)]
    assert first == ["flood0", "rare0", "flood1", "rare1"]
    assert taken(store, 2, turns=turns) == ["flood2", "flood3"]


def test_a_run_is_taken_once_and_again_when_whoever_took_it_did_not_start_it(store: SqlStore) -> None:
    put(store, "a")
    assert taken(store) == ["a"]
    assert taken(store) == []
    assert taken(store, now=NOW + queue.HOLD_MS) == ["a"]
    start(store, "a")
    assert taken(store, now=NOW + 3 * queue.HOLD_MS) == []
    assert store.read(queue.count) == 0


def test_a_run_that_was_cancelled_or_started_otherwise_is_forgotten(store: SqlStore) -> None:
    for run_id in ("a", "b", "c"):
        put(store, run_id)
    store.write(lambda c: control.finalize_cancel(c, "a", NOW, None))
    assert store.read(queue.count) == 2
    assert store.write(lambda c: control.claim(c, "b", "o", NOW, 1, ())) is not None
    assert taken(store) == ["c"]
    assert store.read(queue.count) == 1


def test_only_what_a_host_serves_is_given_to_it(store: SqlStore) -> None:
    put(store, "a", workflow="one")
    put(store, "b", workflow="two")
    assert taken(store, only="two") == ["b"]


def test_concurrency_counts_runs_that_are_driven_and_those_that_are_about_to_be(store: SqlStore) -> None:
    limit(store, "gpu", 2)
    limit(store, "workflow:w", 3)
    for index in range(4):
        put(store, f"g{index}", queue_name="gpu")
    for index in range(3):
        put(store, f"x{index}")
    first = taken(store)
    assert len(first) == 3  # the workflow's limit
    assert Counter(run_id[0] for run_id in first)["g"] <= 2
    assert taken(store) == []
    start(store, *first)
    assert taken(store) == []
    end(store, first[0])
    assert len(taken(store)) == 1


def test_a_rate_lets_so_many_start_at_once_and_then_one_at_a_time(store: SqlStore) -> None:
    limit(store, "default", rate=(2, 1_000))
    for index in range(5):
        put(store, f"r{index}")
    assert taken(store) == ["r0", "r1"]
    assert taken(store, now=NOW + 499) == []
    assert taken(store, now=NOW + 500) == ["r2"]
    assert taken(store, now=NOW + 1_500) == ["r3", "r4"]
    assert store.write(lambda c: limits.delete(c, "default"))
    assert not store.write(lambda c: limits.delete(c, "default"))


def test_what_a_limit_holds_back_does_not_hold_others_back(store: SqlStore) -> None:
    limit(store, "workflow:slow", 1)
    for index in range(3):
        put(store, f"s{index}", workflow="slow")
        put(store, f"f{index}", workflow="fast")
    found = taken(store)
    assert sorted(found) == ["f0", "f1", "f2", "s0"]


def test_a_queue_that_is_full_refuses_and_stores_nothing(store: SqlStore) -> None:
    put(store, "a")
    run = NewRun("b", "w", None, None, "{}", "{}", None, NOW)
    with pytest.raises(QuotaExceeded):
        store.write(lambda c: queue.enqueue(c, run, 1))
    put(store, "b")
    with pytest.raises(RunAlreadyExists):
        put(store, "b")
    assert [lane[2] for lane in store.read(queue.lanes)] == [2]


@given(
    count=st.integers(1, 20),
    period=st.integers(1, 10_000),
    gaps=st.lists(st.integers(0, 3_000), min_size=1, max_size=200),
)
def test_no_period_has_more_starts_than_twice_the_rate_and_a_patient_one_is_never_held(
    count: int, period: int, gaps: list[int]
) -> None:
    held, now = Limit("q", None, count, period), 0.0
    starts: list[float] = []
    for gap in gaps:
        now += gap
        if held.opens_at(now) <= now:
            held = held.after_start(now)
            starts.append(now)
    for index, began in enumerate(starts):
        # a burst and the refill during the period: less than twice the rate, and over k periods at most k + 1 times
        assert sum(began <= s < began + period for s in starts[index:]) <= 2 * count
        later = [s for s in starts[index:] if s < began + 10 * period]
        assert len(later) <= 11 * count
    patient, now = Limit("q", None, count, period), 0.0
    for _ in range(50):
        now += period / count
        assert patient.opens_at(now) <= now + 1e-6
        patient = patient.after_start(now)


def test_of_a_paused_queue_or_workflow_nothing_is_taken_until_that_changes(store: SqlStore) -> None:
    put(store, "a", queue_name="slow")
    put(store, "b", workflow="other")
    put(store, "c")
    for name in ("slow", "workflow:other"):
        store.write(lambda c, name=name: limits.put(c, Limit(name, 0, None, None), NOW))  # type: ignore[misc]

    def any_lane(workflow: str, queue_name: str) -> bool:
        return True

    found = store.write(lambda c: queue.take(c, NOW, 9, is_wanted=lambda _: True, serves=any_lane, last_turns={}))
    assert [run.run_id for run in found.runs] == ["c"]
    assert (found.is_paused, found.is_held) == (True, False)
    store.write(lambda c: limits.put(c, Limit("slow", 1, None, None), NOW))
    assert taken(store) == ["a"]
    store.write(lambda c: limits.delete(c, "workflow:other"))
    assert taken(store) == ["b"]


def test_whether_a_run_may_have_to_wait_for_a_limit_is_known_by_its_queue_and_workflow(store: SqlStore) -> None:
    assert not store.read(lambda c: limits.is_limited(c, "default", "w"))
    store.write(lambda c: limits.put(c, Limit("workflow:w", 2, None, None), NOW))
    assert store.read(lambda c: limits.is_limited(c, "default", "w"))
    assert not store.read(lambda c: limits.is_limited(c, "default", "x"))
    assert not store.read(lambda c: limits.is_limited(c, "w", "x"))
