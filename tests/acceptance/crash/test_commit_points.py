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
    expected = reference(zygote, tmp_path, sweep.workflow, sweep.role)
    kills, nth, was_killed = 0, sweep.part, True
    while was_killed:
        order = Order(str(tmp_path / str(nth)), sweep.role, sweep.workflow, durability="normal")  # type: ignore[arg-type]
        trial = Trial(zygote, order)
        was_killed = trial.go(point=sweep.point.value, nth=nth)
        trial.finish()
        trial.compare(expected)
        kills += trial.kills
        nth += sweep.parts
    record_property("kills", kills)
    assert kills >= sweep.kills


@pytest.mark.parametrize("sweep", DOUBLE_SWEEPS, ids=str)
def test_a_second_kill_during_recovery_changes_nothing_either(
    sweep: Sweep, zygote: Zygote, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    expected = reference(zygote, tmp_path, sweep.workflow, sweep.role)
    kills, nth, was_killed = 0, sweep.part, True
    while was_killed:
        order = Order(str(tmp_path / str(nth)), sweep.role, sweep.workflow, durability="normal")  # type: ignore[arg-type]
        trial = Trial(zygote, order)
        was_killed = trial.go(point=sweep.point.value, nth=nth)
        trial.go(point=sweep.point.value, nth=1 + nth % 3)  # making the tables, the claim, the first step
        trial.finish()
        trial.compare(expected)
        kills += trial.kills
        nth += sweep.parts
    record_property("kills", kills)
    assert kills >= sweep.kills
