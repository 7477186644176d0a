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
Job = Callable[[Session], object]


class Given(NamedTuple):
    """A job with a name that says what it was in a failing example."""

    name: str
    job: Job

    def __repr__(self) -> str:
        return self.name


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


@st.composite
def launches(draw: st.DrawFn) -> Given:
    run_id, now = draw(runs), draw(moments)
    run = NewRun(
        run_id,
        draw(st.sampled_from(["w", "v"])),
        None,
        None,
        "{}",
        "{}",
        draw(st.sampled_from([None, OWNER])),
        now,
        parent_run_id=_parent(run_id),
        idempotency_key=draw(st.sampled_from([None, None, "k", "l"])),
        events=(EventDraft("RunStarted"),),
        workflow_key=draw(st.sampled_from([None, "key"])),
        is_system=draw(st.booleans()),
    )
    return Given(f"launch {run}", lambda c: control.launch(c, run))


@st.composite
def steps(draw: st.DrawFn) -> Given:
    """A step of whoever owns the run by its row, or of somebody who does not."""
    run_id, now, is_mine, ignores = (
        draw(runs),
        draw(moments),
        draw(st.sampled_from([True] * 5 + [False])),
        draw(st.booleans()),
    )
    changes = draw(st.lists(st.tuples(nodes, st.integers(0, 1), things | st.none(), moments), max_size=3))
    end = draw(st.sampled_from([None, None, "waiting-approval", "waiting-timer", "finished", "failed"]))
    rows = draw(st.lists(st.sampled_from(["approval", "human", "timer", "timers_done"]), max_size=2))
    seen = draw(st.booleans())

    def job(c: Session) -> object:
        row = reads.run(c, run_id)
        step = Step(
            run_id, OWNER, row.epoch if is_mine else row.epoch - 1, row.frame_no + 1, now, ignores_cancel=ignores
        )
        for node_id, iteration, thing, at in changes:
            output = None if thing is None else len(step.outputs)
            state = "waiting-approval" if thing is None else "finished"
            step.nodes[node_id, iteration] = NodeChange(node_id, iteration, state, 1, "thing", None, None, output)
            step.attempts.append(
                AttemptChange(node_id, iteration, 1, state, at, None if thing is None else at, cached=0)
            )
            step.events.append(EventDraft("NodeStarted", node_id, iteration, '{"attempt":1}'))
            if thing is not None:
                step.outputs.append(OutputWrite(THINGS, node_id, iteration, THINGS.encode(thing)))
        for name in rows:
            step.rows.append((name, _PARAMETERS[name](run_id, step.frame_no, now)))
        if end is not None:
            step.status = StatusChange(end, not end.startswith("waiting"), None)
            step.seen_wakeup = reads.inbox(c, run_id, -1).last_wakeup if seen else 0
        return write_step(c, step)

    return Given(f"step of {run_id} at {now}: {changes} {rows} {end} mine={is_mine} seen={seen}", job)


_PARAMETERS: dict[str, Callable[[str, int, int], tuple[Any, ...]]] = {
    "approval": lambda run, frame, now: (
        run,
        "a",
        0,
        "requested",
        "w",
        now,
        None,
        None,
        None,
        "{}",
        None,
        0,
        frame,
        None,
    ),
    "human": lambda run, frame, now: (f"human:{run}:B:0", run, "B", 0, "json", "?", None, None, now, None, frame),
    "timer": lambda run, frame, now: (run, "a", 0, "timer", now),
    "timers_done": lambda run, frame, now: (run,),
}

asked = st.one_of(
    st.tuples(runs, moments, st.booleans()).map(
        lambda x: Given(
            f"decide {x}", lambda c: control.decide(c, x[0], "a", 0, x[1], lambda _: (x[2], None, "ann", None))
        )
    ),
    st.tuples(runs, moments).map(
        lambda x: Given(f"answer {x}", lambda c: control.answer(c, f"human:{x[0]}:B:0", x[1], lambda _: ("1", None)))
    ),
    st.tuples(runs, st.sampled_from([None, "c"]), texts, st.sampled_from([None, "k"])).map(
        lambda x: Given(f"signal {x}", lambda c: control.signal(c, x[0], "go", x[1], repr(x[2]), 3, None, x[3]))
    ),
    st.tuples(runs, moments).map(lambda x: Given(f"cancel {x}", lambda c: control.request_cancel(c, *x, "user"))),
    st.tuples(runs, moments).map(lambda x: Given(f"end {x}", lambda c: control.finalize_cancel(c, *x, None))),
    st.tuples(runs, moments).map(lambda x: Given(f"pause {x}", lambda c: control.request_pause(c, *x))),
    st.tuples(runs, moments, st.booleans()).map(
        lambda x: Given(f"claim {x}", lambda c: control.claim(c, x[0], OWNER, x[1], reads.run(c, x[0]).epoch, (), x[2]))
    ),
    runs.map(lambda x: Given(f"release {x}", lambda c: control.release(c, x, OWNER))),
    moments.map(lambda x: Given(f"heartbeat {x}", lambda c: control.heartbeat(c, OWNER, x))),
    st.tuples(runs, moments).map(
        lambda x: Given(f"expire {x}", lambda c: control.expire(c, x[0], [("a", 0), ("B", 0)], x[1], (OWNER, 1)))
    ),
    runs.map(
        lambda x: Given(
            f"mirror {x}", lambda c: mirror.write(c, mirror.snapshot(c, x, -1, 9), "/elsewhere", "mirror:x")
        )
    ),
)


def _fire(c: Session, row: crons.CronRow, at: int, following: int | None) -> object:
    moved = crons.move(c, row, following, last_run_at_ms=at, error_json=None)
    begun = crons.begin(c, row.cron_id, at, 3, "claimed")
    crons.trim(c, row.cron_id, 1)
    return moved, begun


kept = st.one_of(
    st.tuples(st.sampled_from("ab"), moments | st.none()).map(
        lambda x: Given(
            f"cron {x}",
            lambda c: crons.put(
                c, crons.CronRow(x[0], "* * * * *", "gateway:w", 1, 1, None, x[1], None, None, "skip", None)
            ),
        )
    ),
    st.tuples(moments, moments | st.none()).map(
        lambda x: Given(
            f"fire {x}",
            lambda c: [_fire(c, row, *x) for row in crons.due(c, "w", x[0], 9)],
        )
    ),
    moments.map(lambda x: Given(f"again {x}", lambda c: (crons.stale(c, "w", x), crons.reclaim(c, "w", x, x + 1, 9)))),
    st.tuples(st.sampled_from("ab"), moments | st.none()).map(
        lambda x: Given(f"fail {x}", lambda c: crons.fail(c, x[0], x[1], 9, "{}"))
    ),
    st.tuples(st.sampled_from("ab"), texts, st.none() | moments).map(
        lambda x: Given(
            f"doc {x}", lambda c: documents.put(c, documents.DocRow(x[0], "ticket", x[1], "", None, 1, x[2]))
        )
    ),
    st.tuples(st.sampled_from("ab"), texts, moments).map(
        lambda x: Given(
            f"fact {x}",
            lambda c: library.put_fact(c, library.FactRow(x[0], "k", repr(x[1]), None, x[2], x[2], x[2] or None)),
        )
    ),
    st.tuples(st.sampled_from("ab"), texts).map(
        lambda x: Given(
            f"deliver {x}", lambda c: webhooks.accept(c, webhooks.Delivery("s", x[0], "go", None, repr(x[1])), 1, 1)
        )
    ),
)

jobs = st.lists(st.one_of(launches(), launches(), steps(), steps(), steps(), asked, asked, kept), max_size=25)


@pytest.fixture
def stores(tmp_path: object, postgres_url: str) -> Iterator[tuple[SqlStore, SqlStore]]:
    """One of either kind."""
    found = (open_store(f"{tmp_path}/t.db", durability="normal"), open_store(postgres_url, durability="normal"))
    for store in found:
        asyncio.run(store.ensure_tables([THINGS]))
    yield found
    for store in found:
        store.close()


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(given=jobs)
def test_the_same_jobs_leave_the_same_rows(stores: tuple[SqlStore, SqlStore], given: list[Given]) -> None:
    columns = stores[0].read(_columns)
    for store in stores:
        store.write(partial(_begin, tables=list(columns)))
    for each in given:
        first, second = (_outcome(store, each.job) for store in stores)
        assert first == second, each.name
    first, second = (store.read(partial(_everything, columns=columns)) for store in stores)
    assert first == second
    first, second = (store.read(_looks) for store in stores)
    assert first == second


def _outcome(store: SqlStore, job: Job) -> object:
    try:
        return _plain(store.write(job))
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
