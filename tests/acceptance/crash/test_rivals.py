"""Two processes want the same run at the same moment: one gets it, the other is told so."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.acceptance.crash import workflows
from tests.acceptance.crash.child import Order
from tests.acceptance.crash.observe import check, opened
from tests.acceptance.crash.pipes import Reins, first_to_end
from tests.acceptance.crash.zygote import Ending, Zygote

from smithers.control.control import Control
from smithers.engine.engine import Engine
from smithers.scheduler.states import RunStatus
from smithers.settings import Settings
from smithers.store.sql.store import SqlStore

pytestmark = pytest.mark.crash
ROUNDS = range(5)


@pytest.fixture
def reins(tmp_path: Path) -> Iterator[Reins]:
    found = Reins(tmp_path)
    yield found
    found.close()


def race(order: Order, one: Zygote, other: Zygote, reins: Reins) -> tuple[Ending, Ending]:
    """Have two processes carry out an order at once: how the one that lost and the one that won ended.

    Both have the database open when they are let go. The winner is held in its task until the loser has ended.
    """
    folder = Path(order.folder)
    for zygote, name in ((one, "barrier-1"), (other, "barrier-2")):
        os.mkfifo(folder / name)
        zygote.start(replace(order, barrier=str(folder / name)))
    starts = [os.open(folder / name, os.O_WRONLY) for name in ("barrier-1", "barrier-2")]  # waits for each to listen
    for start in starts:
        os.close(start)
    loser, winner = first_to_end(one, other)
    lost = loser.ending()
    reins.until_entered()
    reins.let_go()
    return lost, winner.ending()


@pytest.mark.parametrize("_round", ROUNDS)
def test_of_two_launches_with_one_run_id_one_wins_and_the_other_is_refused(
    _round: int, zygote: Zygote, other_zygote: Zygote, reins: Reins, tmp_path: Path
) -> None:
    lost, won = race(Order(str(tmp_path), "launch", "slow"), zygote, other_zygote, reins)
    assert lost.report.error == "RunAlreadyExists"
    assert won.report.status == "finished"
    check(tmp_path)
    assert len(workflows.executions(tmp_path)) == 3


@pytest.mark.parametrize("_round", ROUNDS)
def test_of_two_that_resume_one_run_one_drives_and_the_other_is_told_who_owns_it(
    _round: int, zygote: Zygote, other_zygote: Zygote, reins: Reins, tmp_path: Path
) -> None:
    orphan = Order(str(tmp_path), "launch", "slow", point="answered", nth=2)
    assert zygote.run(orphan).was_killed
    lost, won = race(Order(str(tmp_path), "resume", "slow"), zygote, other_zygote, reins)
    assert lost.report.error in ("LeaseLost", "RunOwnerAlive", "RunStillRunning")
    assert won.report.status == "finished"
    check(tmp_path)
    by_node = [e.node_id for e in workflows.executions(tmp_path)]
    assert sorted(by_node) == ["first", "last", "long"]


def test_two_resumes_in_one_process_take_the_run_over_once(zygote: Zygote, tmp_path: Path) -> None:
    assert zygote.run(Order(str(tmp_path), "launch", "slow", point="answered", nth=2)).was_killed

    async def main(store: SqlStore) -> list[RunStatus]:
        engine = Engine(store, Settings(root_dir=tmp_path))
        try:
            handles = await asyncio.gather(*(engine.resume(workflows.RUN, workflows.slow) for _ in range(3)))
            return [(await handle.result).status for handle in handles]
        finally:
            await engine.close()

    with opened(tmp_path) as store:
        assert asyncio.run(main(store)) == [RunStatus.FINISHED] * 3
    assert check(tmp_path)[workflows.RUN].row.epoch == 2
    assert len(workflows.executions(tmp_path)) == 3


def test_a_decision_of_another_process_wakes_the_one_that_waits(zygote: Zygote, reins: Reins, tmp_path: Path) -> None:
    zygote.start(Order(str(tmp_path), "wait", "asking"))
    reins.until_entered()

    async def decide(store: SqlStore) -> None:
        await Control(store).decide(workflows.RUN, approved=True, caller=workflows.PERSON)

    with opened(tmp_path) as store:
        asyncio.run(decide(store))
    assert zygote.ending().report.status == "finished"
    check(tmp_path)
