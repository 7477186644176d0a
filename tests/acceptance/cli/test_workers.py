"""Workers: real processes that share a database; nothing is started twice, lost, or left lying when one of them ends."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest
from tests.acceptance.cli.support import DEADLINE_S, Shell

from smithers.store import open_store
from smithers.store.sql import reads

BOTH_DATABASES = True

FLOW = """
import os
import time
from pathlib import Path
from pydantic import BaseModel
from smithers import Approval, Sequence, Task, Workflow, create_smithers

HERE = Path(__file__).parent

class Row(BaseModel):
    pid: int

class Verdict(BaseModel):
    approved: bool

class Given(BaseModel):
    name: str
    waits: bool = False
    asks: bool = False

smithers, outputs = create_smithers({"row": Row, "verdict": Verdict}, input=Given)

def noted(name, waits):
    def work():
        with (HERE / "log").open("a") as log:
            log.write(f"{name}\\n")
        while waits and not (HERE / "go").exists():
            time.sleep(0.01)
        return {"pid": os.getpid()}
    return work

@smithers
def flow(ctx):
    given = ctx.input
    name = given.name
    return Workflow("flow")[
        Sequence[
            given.asks and Approval("ok", output=outputs.verdict),
            Task("first", output=outputs.row)[noted(f"{name}:first", given.waits)],
            Task("last", output=outputs.row)[noted(f"{name}:last", False)],
        ]
    ]
"""


@pytest.fixture
def place(shell: Shell, db: str, tmp_path: Path) -> tuple[Shell, str, Path]:
    """A shell, a database, and a folder with the workflow."""
    folder = tmp_path / "flows"
    folder.mkdir()
    (folder / "flow.py").write_text(FLOW)
    return shell, db, folder


def launch(shell: Shell, db: str, name: str, **more: bool) -> None:
    given = ", ".join([f'"name": "{name}"', *(f'"{key}": {str(value).lower()}' for key, value in more.items())])
    done = shell("launch", "flows/flow.py", "--run-id", name, "--db", db, "--input", "{" + given + "}")
    assert done.code == 0, done.err


def until(db: str, run_id: str, *statuses: str) -> None:
    """Wait for a run's status; each look wakes with the database's next commit, and gives up after a while."""
    store = open_store(db)
    moved = threading.Event()
    unwatch = store.watch(moved.set)
    try:
        give_up_at = time.monotonic() + DEADLINE_S
        while time.monotonic() < give_up_at:
            moved.clear()
            if store.read(lambda c: reads.run(c, run_id)).status in statuses:
                return
            moved.wait(0.25)
        raise AssertionError(store.read(lambda c: reads.run(c, run_id)))
    finally:
        unwatch()
        store.close()


def executed(folder: Path) -> list[str]:
    return (folder / "log").read_text().split()


def test_two_workers_share_what_waits_and_nothing_is_executed_twice(place: tuple[Shell, str, Path]) -> None:
    shell, db, folder = place
    names = [f"r{index}" for index in range(6)]
    for name in names:
        launch(shell, db, name)
    workers = [shell.start("worker", "flows", "--db", db, "--concurrency", "2") for _ in range(2)]
    for worker in workers:
        worker.until("working for")  # the other one may have done it all before this one is there
    for name in names:
        until(db, name, "finished")
    assert sorted(executed(folder)) == sorted(f"{name}:{step}" for name in names for step in ("first", "last"))
    for worker in workers:
        worker.send(signal.SIGTERM)
        assert worker.end() == 0
    assert shell("db", "check", "--db", db).code == 0


def test_a_worker_that_is_told_to_end_finishes_what_is_under_way_and_takes_nothing_more(
    place: tuple[Shell, str, Path],
) -> None:
    shell, db, folder = place
    launch(shell, db, "a", waits=True)
    worker = shell.start("worker", "flows", "--db", db)
    worker.until("resumed a")
    until(db, "a", "running")
    worker.send(signal.SIGTERM)
    worker.until("waiting up to 30 s for 1 runs")
    launch(shell, db, "b")
    (folder / "go").touch()
    assert worker.end() == 0
    until(db, "a", "finished")
    assert "b:first" not in executed(folder)
    assert shell("ps", "--db", db, "--format", "json").out.count("waiting-quota") >= 1


def test_what_is_not_done_in_time_is_left_to_another_worker_at_once(place: tuple[Shell, str, Path]) -> None:
    shell, db, folder = place
    launch(shell, db, "a", waits=True)
    worker = shell.start("worker", "flows", "--db", db, "--drain", "0s")
    worker.until("resumed a")
    worker.send(signal.SIGTERM)
    worker.until("left to other workers")
    (folder / "go").touch()
    assert worker.end() == 0
    other = shell.start("worker", "flows", "--db", db)
    until(db, "a", "finished")
    other.send(signal.SIGTERM)
    assert other.end() == 0


def test_a_worker_goes_on_with_the_runs_of_one_that_was_killed(place: tuple[Shell, str, Path]) -> None:
    shell, db, folder = place
    launch(shell, db, "a", waits=True)
    first = shell.start("worker", "flows", "--db", db)
    first.until("resumed a")
    while not (folder / "log").exists():
        pass
    first.send(signal.SIGKILL)
    first.end()
    (folder / "go").touch()
    second = shell.start("worker", "flows", "--db", db, "--interval", "100ms")
    until(db, "a", "finished")
    assert executed(folder).count("a:last") == 1
    second.send(signal.SIGTERM)
    assert second.end() == 0


def test_a_run_that_waits_for_a_decision_is_gone_on_with_by_whichever_worker_is_there(
    place: tuple[Shell, str, Path],
) -> None:
    shell, db, folder = place
    launch(shell, db, "a", asks=True)
    first = shell.start("worker", "flows", "--db", db)
    until(db, "a", "waiting-approval")
    first.send(signal.SIGTERM)
    assert first.end() == 0
    second = shell.start("worker", "flows", "--db", db)
    second.until("working for")
    assert shell("approve", "a", "--node", "ok", "--db", db).code in (0, 2)
    until(db, "a", "finished")
    assert executed(folder) == ["a:first", "a:last"]
    second.send(signal.SIGTERM)
    assert second.end() == 0
