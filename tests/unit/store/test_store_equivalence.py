"""The same sequence of jobs leaves the same rows in both databases, and every read gives the same."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from smithers.errors import SmithersError
from smithers.events import EventDraft
from smithers.store import open_store
from smithers.store.columns import table_def
from smithers.store.interface import (
    AttemptChange,
    CancelRequested,
    LaunchedBefore,
    NewRun,
    NewWakeup,
    NodeChange,
    OutputWrite,
    RunRow,
    SqlValue,
    StatusChange,
    Step,
)
from smithers.store.sql import (
    control,
    crons,
    documents,
    feeds,
    library,
    lineage,
    mirror,
    pages,
    reads,
    requests,
    run_pages,
    wakeups,
    webhooks,
)
from smithers.store.sql.commit import write_step
from smithers.store.sql.run_pages import RunFilter
from smithers.store.sql.session import Session
from smithers.store.sql.store import SqlStore
from smithers.store.sql.tables import as_encoded, columns_of


class Thing(BaseModel):
    """A row of every kind of column."""

    flag: bool | None = None
    size: int | None = None
    ratio: float | None = None
    text: str | None = None
    parts: list[str] = []


THINGS = table_def("thing", Thing)
RUNS = ["r", "r:child:sub:0", "r:child:sub:0:child:sub:0", "other"]
NODES = ["a", "B", "ä"]
OWNER = "pid:1:host:2:3"

Job = Callable[..., object]


class Given(NamedTuple):
    """A write job and its arguments, which say what it was in a failing example."""

    job: Job
    arguments: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"{self.job.__name__}{self.arguments}"


def does(job: Job, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Given]:
    """The job with arguments like these."""
    return st.tuples(*arguments).map(partial(Given, job))


def _parent(run_id: str) -> str | None:
    above, is_child, _ = run_id.rpartition(":child:")
    return above if is_child else None


runs, nodes = st.sampled_from([RUNS[0]] * 4 + [RUNS[1]] * 2 + RUNS[2:]), st.sampled_from(NODES)
moments = st.integers(0, 5)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
things = st.builds(
    Thing,
    flag=st.none() | st.booleans(),
    size=st.none() | st.integers(-3, 3) | st.sampled_from([2**63 - 1, -(2**63), 2**63, -(2**70)]),
    ratio=st.none() | st.floats(width=32),
    text=st.none() | texts,
    parts=st.lists(texts, max_size=2),
)


def launch(
    c: Session,
    run_id: str,
    workflow: str,
    owner: str | None,
    now: int,
    key: str | None,
    stamp: str | None,
    system: bool,
) -> object:
    run = NewRun(run_id, workflow, None, None, "{}", "{}", owner, now, _parent(run_id), key, workflow_key=stamp,
                 events=(EventDraft("RunStarted"),), is_system=system)  # fmt: skip
    return control.launch(c, run)


launches = does(launch, runs, st.sampled_from("wv"), st.sampled_from([None, OWNER]), moments,
                st.sampled_from([None, None, "k", "l"]), st.sampled_from([None, "key"]), st.booleans())  # fmt: skip

Change = tuple[str, int, Thing | None, int]


def step(
    c: Session, run_id: str, now: int, is_mine: bool, ignores: bool, changes: list[Change], end: str | None,
    rows: list[str], seen: bool,
) -> object:  # fmt: skip
    """A step of whoever owns the run by its row, or of somebody who does not."""
    run = reads.run(c, run_id)
    made = Step(run_id, OWNER, run.epoch if is_mine else run.epoch - 1, run.frame_no + 1, now, ignores_cancel=ignores)
    for node_id, iteration, thing, at in changes:
        output = None if thing is None else len(made.outputs)
        state = "waiting-approval" if thing is None else "finished"
        made.nodes[node_id, iteration] = NodeChange(node_id, iteration, state, 1, "thing", None, None, output)
        finished = None if thing is None else at
        made.attempts.append(AttemptChange(node_id, iteration, 1, state, at, finished, cached=0))
        made.events.append(EventDraft("NodeStarted", node_id, iteration, '{"attempt":1}'))
        if thing is not None:
            made.outputs.append(OutputWrite(THINGS, node_id, iteration, THINGS.encode(thing)))
    made.rows = [(name, _parameters(name, run_id, made.frame_no, now)) for name in rows]
    if end is not None:
        made.status = StatusChange(end, not end.startswith("waiting"), None)
        made.seen_wakeup = reads.inbox(c, run_id, -1).last_wakeup if seen else 0
    return write_step(c, made)


def _parameters(name: str, run: str, frame: int, now: int) -> tuple[SqlValue, ...]:
    if name == "approval":
        return (run, "a", 0, "requested", "w", now, None, None, None, "{}", None, 0, frame, None)
    if name == "human":
        return (f"human:{run}:B:0", run, "B", 0, "json", "?", None, None, now, None, frame)
    return (run, "a", 0, "timer", now) if name == "timer" else (run,)


steps = does(
    step, runs, moments, st.sampled_from([True] * 5 + [False]), st.booleans(),
    st.lists(st.tuples(nodes, st.integers(0, 1), things | st.none(), moments), max_size=3),
    st.sampled_from([None, None, "waiting-approval", "waiting-timer", "finished", "failed"]),
    st.lists(st.sampled_from(["approval", "human", "timer", "timers_done"]), max_size=2), st.booleans(),
)  # fmt: skip


# ── what is asked of runs ──────────────────────────────────────────────────────────────────────────────────────────


def decide(c: Session, run_id: str, now: int, approved: bool) -> object:
    return requests.decide(c, run_id, "a", 0, now, lambda _row: (approved, None, "ann", None))


def answer(c: Session, run_id: str, now: int) -> object:
    return requests.answer(c, f"human:{run_id}:B:0", now, lambda _row: ("1", None))


def signal(c: Session, run_id: str, correlation: str | None, text: str, key: str | None) -> object:
    return requests.signal(c, run_id, "go", correlation, repr(text), 3, None, key)


def cancel(c: Session, run_id: str, now: int) -> object:
    return requests.request_cancel(c, run_id, now, "user")


def end_cancelled(c: Session, run_id: str, now: int) -> object:
    return control.finalize_cancel(c, run_id, now, None)


def claim(c: Session, run_id: str, now: int, keeps_pause: bool) -> object:
    return control.claim(c, run_id, OWNER, now, reads.run(c, run_id).epoch, (), keeps_pause)


def release(c: Session, run_id: str) -> None:
    control.release(c, run_id, OWNER)


def beat(c: Session, now: int) -> object:
    return control.heartbeat(c, OWNER, now)


def expire(c: Session, run_id: str, now: int) -> object:
    return control.expire(c, run_id, [("a", 0), ("B", 0)], now, (OWNER, 1))


def show(c: Session, run_id: str) -> None:
    mirror.write(c, mirror.snapshot(c, run_id, -1, 9), "/elsewhere", "mirror:x")


asked = st.one_of(
    does(decide, runs, moments, st.booleans()), does(answer, runs, moments), does(cancel, runs, moments),
    does(signal, runs, st.sampled_from([None, "c"]), texts, st.sampled_from([None, "k"])),
    does(end_cancelled, runs, moments), does(requests.request_pause, runs, moments), does(claim, runs, moments, st.booleans()),
    does(release, runs), does(beat, moments), does(expire, runs, moments), does(show, runs),
)  # fmt: skip


# ── what is kept beside runs ───────────────────────────────────────────────────────────────────────────────────────


def schedule(c: Session, cron_id: str, due: int | None) -> object:
    return crons.put(c, crons.CronRow(cron_id, "* * * * *", "gateway:w", 1, 1, None, due, None, None, "skip", None))


def fire(c: Session, now: int, following: int | None) -> object:
    found: list[object] = []
    for row in crons.due(c, "w", now, 9):
        found.append(crons.move(c, row, following, last_run_at_ms=now, error_json=None))
        found.append(crons.begin(c, row.cron_id, now, 3, "claimed"))
        crons.trim(c, row.cron_id, 1)
    return found


def fire_again(c: Session, now: int) -> object:
    return crons.stale(c, "w", now), crons.reclaim(c, "w", now, now + 1, 9)


def fail(c: Session, cron_id: str, expected: int | None) -> None:
    crons.fail(c, cron_id, expected, 9, "{}")


def note(c: Session, path: str, text: str, deleted: int | None) -> None:
    documents.put(c, documents.DocRow(path, "ticket", text, "", None, 1, deleted))


def remember(c: Session, namespace: str, text: str, now: int) -> None:
    library.put_fact(c, library.FactRow(namespace, "k", repr(text), None, now, now, now or None))


def deliver(c: Session, key: str, text: str) -> object:
    return webhooks.accept(c, webhooks.Delivery("s", key, "go", None, repr(text)), 1, 1)


names = st.sampled_from("ab")
kept = st.one_of(
    does(schedule, names, moments | st.none()), does(fire, moments, moments | st.none()), does(fire_again, moments),
    does(fail, names, moments | st.none()), does(note, names, texts, moments | st.none()),
    does(remember, names, texts, moments), does(deliver, names, texts),
)  # fmt: skip

jobs = st.lists(st.one_of(launches, launches, steps, steps, steps, asked, asked, kept), max_size=25)


@pytest.fixture
def stores(tmp_path: object, postgres_url: str) -> Iterator[tuple[SqlStore, SqlStore]]:
    """One of either kind."""
    found = (open_store(f"{tmp_path}/t.db", durability="normal"), open_store(postgres_url, durability="normal"))
    for store in found:
        asyncio.run(store.ensure_tables([THINGS]))
    yield found
    for store in found:
        store.close()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(given=jobs)
def test_the_same_jobs_leave_the_same_rows(stores: tuple[SqlStore, SqlStore], given: list[Given]) -> None:
    columns = stores[0].read(_columns)
    for store in stores:
        store.write(partial(_begin, tables=list(columns)))
    for each in given:
        first, second = (_outcome(store, each) for store in stores)
        assert first == second, each
    first, second = (store.read(partial(_everything, columns=columns)) for store in stores)
    assert first == second
    first, second = (store.read(_looks) for store in stores)
    assert first == second


def _outcome(store: SqlStore, given: Given) -> object:
    try:
        return _plain(store.write(lambda c: given.job(c, *given.arguments)))
    except (SmithersError, CancelRequested, LaunchedBefore, NewWakeup) as error:
        return type(error).__name__, str(error)


def _plain(found: object) -> object:
    """What a job gives, without the ids of wake-ups, of which PostgreSQL leaves some out."""
    if isinstance(found, RunRow):
        return found._replace(seen_wakeup=0)
    return found


_APART = {("_smithers_runs", "seen_wakeup"), ("_smithers_wakeups", "id"), ("_smithers_wakeups", "tx")}


def _columns(c: Session) -> dict[str, list[str]]:
    """All tables that jobs write to, children before their parents, with what is the same in both databases."""
    found: dict[str, list[str]] = {}
    for table in sorted(run_pages.schema(c)[1], reverse=True):
        if table not in ("sqlite_sequence", "_smithers_schema_migrations", "_smithers_output_schema_columns"):
            found[table] = [name for name in columns_of(c, table) if (table, name) not in _APART]
    return found


def _begin(c: Session, *, tables: list[str]) -> None:
    """A run with a child, and nothing else."""
    for name in tables:
        c.execute(f'DELETE FROM "{name}"')
    for run_id in RUNS[:2]:
        control.launch(c, NewRun(run_id, "w", None, None, "{}", "{}", OWNER, 0, parent_run_id=_parent(run_id)))


def _everything(c: Session, *, columns: dict[str, list[str]]) -> dict[str, list[tuple[object, ...]]]:
    found: dict[str, list[tuple[object, ...]]] = {}
    for table, names in columns.items():
        rows = c.execute(f'SELECT {", ".join(names)} FROM "{table}"').fetchall()
        found[table] = sorted((tuple(map(as_encoded, row)) for row in rows), key=repr)
    return found


def _looks(c: Session) -> list[object]:
    """What the reads give that decide by order, by nulls and by text."""
    everybody: Callable[[str], bool] = lambda _run_id: True  # noqa: E731
    looks: list[object] = [
        wakeups.next_due(c),
        sorted(wakeups.due_runs(c, 3, 9, everybody)),
        sorted(wakeups.moved_runs(c, 9, everybody)),
        pages.gauges(c),
        pages.open_approvals(c),
        pages.waiting_for(c, "go", None),
        run_pages.pending(c, RunFilter(workflow_key="key", registered=("w",)), None, 9),
        run_pages.pending(c, RunFilter(), "r", 9),
        crons.due(c, "w", 9, 9),
        crons.next_due(c, ["w", "v"]),
        documents.page(c, kinds=(), include_deleted=True, updated_after_ms=None, limit=9),
        documents.page(c, kinds=("plan", "ticket"), include_deleted=False, updated_after_ms=0, limit=1),
        library.facts(c, None, 4, 9),
        webhooks.undelivered(c, 9),
        mirror.places(c),
        feeds.growth(c, owner="x", since_ms=2, wakeup=2**60, ask=RUNS, known={}, limit=9)._replace(wakeup=0),
    ]
    for wanted in (RunFilter(), RunFilter(include_system=True, before=(3, "r")), RunFilter(statuses=("running", "failed")),
                   RunFilter(workflow_key="w", registered=("w",)), RunFilter(parent_run_id="r", include_system=True)):  # fmt: skip
        looks.append([row.run.run_id for row in run_pages.run_page(c, wanted, 3)])
    for run_id in reads_of(c):
        looks += [_plain(reads.run(c, run_id)), mirror.place_of(c, run_id), reads.log_page(c, run_id, 1, 3)]
        looks += [lineage.asked(c, run_id), run_pages.node_times(c, run_id), pages.node_counts(c, run_id)]
        looks += [reads.output(c, "thing", run_id, node, None) for node in NODES]
        looks += [_plain(run) for run in lineage.descendants(c, run_id)]
        looks.append([(row.node_id, row.iteration, row.attempt) for row in run_pages.attempts_of_run(c, run_id)])
    return looks


def reads_of(c: Session) -> list[str]:
    """The runs that are there."""
    return sorted(run.run_id for run in reads.runs(c, (), 99))


def test_values_that_one_database_has_no_type_for_come_back_from_both(stores: tuple[SqlStore, SqlStore]) -> None:
    odd = [
        Thing(size=2**80, ratio=math.inf, text="\x00 \U0010fffe", parts=["\x00"]),
        Thing(size=-(2**63), ratio=-math.inf, flag=True),
        Thing(ratio=math.nan),
    ]
    for store in stores:
        run = NewRun("r", "w", None, None, "{}", "{}", OWNER, 1)
        store.write(lambda c, run=run: control.launch(c, run))  # type: ignore[misc]
        step = Step("r", OWNER, 1, 1, 1)
        step.outputs = [OutputWrite(THINGS, "n", at, THINGS.encode(thing)) for at, thing in enumerate(odd)]
        asyncio.run(store.commit(step))

        loaded = asyncio.run(store.load("r", [THINGS])).outputs["thing"]

        assert [repr(THINGS.decode(row[3:])) for row in sorted(loaded)] == [repr(thing) for thing in odd]
