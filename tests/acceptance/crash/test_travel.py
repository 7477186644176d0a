"""A process is killed around every single write of a rewind, a fork and a retry: the history is the old one or the new one,
and the run goes on from there to its end."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Literal

import pytest
from tests.acceptance.crash import workflows
from tests.acceptance.crash.child import FORK, Order
from tests.acceptance.crash.faults import Point
from tests.acceptance.crash.observe import opened
from tests.acceptance.crash.zygote import Zygote

from smithers.control.caller import Caller
from smithers.control.control import Control
from smithers.control.travel.audit import recover_interrupted
from smithers.store.sql import audit
from smithers.store.sql.session import Session

pytestmark = pytest.mark.crash
Travel = Literal["rewind", "fork", "retry"]
PERSON = Caller(user="ann", role="admin")
TABLES = ("nodes", "attempts", "approvals", "signals", "timers", "frames", "ralph")

History = dict[str, list[tuple[object, ...]]]


def history(folder: Path) -> History:
    """Everything that a rewind, fork or retry changes, without times."""

    def query(c: Session) -> History:
        found: History = {
            "runs": c.execute("SELECT run_id, status, frame_no FROM _smithers_runs ORDER BY run_id").fetchall(),
            "mark": c.execute("SELECT * FROM mark ORDER BY run_id, node_id").fetchall(),
            "verdict": c.execute("SELECT run_id, node_id, approved FROM verdict ORDER BY run_id, node_id").fetchall(),
            "nodes": c.execute(
                "SELECT run_id, node_id, state FROM _smithers_nodes ORDER BY run_id, node_id"
            ).fetchall(),
            "jumps": c.execute("SELECT run_id, from_frame, to_frame FROM _smithers_jumps").fetchall(),
            "branches": c.execute("SELECT run_id, parent_run_id FROM _smithers_branches").fetchall(),
        }
        for table in TABLES:
            rows = c.execute(f"SELECT run_id, count(*) FROM _smithers_{table} GROUP BY run_id ORDER BY run_id")
            found[f"{table} counted"] = rows.fetchall()
        log = (
            "SELECT run_id, type FROM _smithers_events WHERE type NOT IN ('TimeTravelInterrupted') ORDER BY run_id, seq"
        )
        found["log"] = c.execute(log).fetchall()
        return found

    with opened(folder) as store:
        return store.read(query)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, zygotes: tuple[Zygote, Zygote]) -> Path:
    """A folder with a run that has ended: two tasks and a decision between them."""
    folder = tmp_path_factory.mktemp("finished")
    assert (
        zygotes[0].run(Order(str(folder), "drive", "asking", durability="normal")).report.status == "waiting-approval"
    )
    decide(folder)
    assert zygotes[0].run(Order(str(folder), "drive", "asking", durability="normal")).report.status == "finished"
    return folder


def decide(folder: Path, run_id: str = workflows.RUN) -> None:
    with opened(folder) as store:
        control = Control(store)
        asyncio.run(control.decide(run_id, "ship", approved=True, caller=PERSON))


def after_a_minute(folder: Path) -> list[str]:
    """The hold of a process that is gone runs out; who starts then looks after what it left."""
    with opened(folder) as store:
        store.write(lambda c: c.execute("UPDATE _smithers_rewind_leases SET expires_at_ms = 0").fetchall())
        closed = asyncio.run(recover_interrupted(Control(store)))
        assert not store.read(lambda c: audit.interrupted(c, 0))
        return closed


@pytest.mark.parametrize("point", Point)
@pytest.mark.parametrize("travel", ["rewind", "fork", "retry"])
def test_a_kill_around_any_write_leaves_the_old_history_or_the_new(
    travel: Travel, point: Point, finished: Path, zygote: Zygote, tmp_path: Path
) -> None:
    run_id = FORK if travel == "fork" else workflows.RUN
    old = history(finished)
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(finished, undisturbed)
    order = Order(str(undisturbed), travel, "asking", frame_no=2, durability="normal")
    assert zygote.run(order).report.status == travel
    new = history(undisturbed)
    assert new != old
    nth, was_killed, kills = 1, True, 0
    while was_killed:
        folder = tmp_path / str(nth)
        shutil.copytree(finished, folder)
        order = Order(str(folder), travel, "asking", frame_no=2, point=point.value, nth=nth, durability="normal")
        was_killed = zygote.run(order).was_killed
        kills += was_killed
        found = history(folder)
        assert found in (old, new), {k: (v, old[k], new[k]) for k, v in found.items() if v not in (old[k], new[k])}
        is_new = found == new
        closed = after_a_minute(folder)
        assert not (is_new and closed), "what is done is on record as done"
        if not is_new:
            again = Order(str(folder), travel, "asking", frame_no=2, durability="normal")
            assert zygote.run(again).report.status == travel
        carry_to_the_end(folder, zygote, run_id)
        nth += 1
    assert kills >= {"rewind": 3, "fork": 1, "retry": 1}[travel]


def carry_to_the_end(folder: Path, zygote: Zygote, run_id: str) -> None:
    order = Order(str(folder), "drive", "asking", run_id=run_id, durability="normal")
    assert zygote.run(order).report.status == "waiting-approval"
    decide(folder, run_id)
    assert zygote.run(order).report.status == "finished"
    with opened(folder) as store:
        rows = store.read(
            lambda c: c.execute("SELECT node_id, by FROM mark WHERE run_id = ? ORDER BY node_id", (run_id,)).fetchall()
        )
        assert rows == [("first", "first"), ("last", "last")]
