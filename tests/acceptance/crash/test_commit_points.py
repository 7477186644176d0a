"""A process is killed around every single write, and the run comes to what it would have come to anyway."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.acceptance.crash.child import Order
from tests.acceptance.crash.plan import DOUBLE_SWEEPS, SWEEPS, Sweep
from tests.acceptance.crash.trials import Trial, reference
from tests.acceptance.crash.zygote import Zygote

pytestmark = pytest.mark.crash


@pytest.mark.parametrize("sweep", SWEEPS, ids=str)
def test_a_kill_around_any_write_changes_nothing_in_the_outcome(
    sweep: Sweep, zygote: Zygote, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    kills = kill_around_each(sweep, zygote, tmp_path, during_recovery=False)
    record_property("kills", kills)
    assert kills >= sweep.kills


@pytest.mark.parametrize("sweep", DOUBLE_SWEEPS, ids=str)
def test_a_second_kill_during_recovery_changes_nothing_either(
    sweep: Sweep, zygote: Zygote, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    kills = kill_around_each(sweep, zygote, tmp_path, during_recovery=True)
    record_property("kills", kills)
    assert kills >= sweep.kills


def kill_around_each(sweep: Sweep, zygote: Zygote, folder: Path, *, during_recovery: bool) -> int:
    """Run the workflow once for each write of the sweep, kill it there and carry it to its end: how many kills it took.

    The sweep ends by itself: with the first write that an undisturbed run does not make any more.
    """
    expected = reference(zygote, folder, sweep.workflow, sweep.role)
    kills, nth, was_killed = 0, sweep.part, True
    while was_killed:
        trial = Trial(zygote, Order(str(folder / str(nth)), sweep.role, sweep.workflow, durability="normal"))
        was_killed = trial.go(point=sweep.point, nth=nth)
        if during_recovery:
            trial.go(
                point=sweep.point, nth=1 + nth % 3
            )  # when it makes the tables, claims the run, takes its first step
        trial.finish()
        trial.compare(expected)
        kills += trial.kills
        nth += sweep.parts
    return kills
