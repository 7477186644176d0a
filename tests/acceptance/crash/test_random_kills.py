"""A process is killed at random moments, again and again, while another answers what the run asks for."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.acceptance.crash.child import NEEDS_SOMEBODY, Order
from tests.acceptance.crash.faults import Point
from tests.acceptance.crash.plan import STORMS, Storm
from tests.acceptance.crash.trials import Trial, reference
from tests.acceptance.crash.zygote import Zygote

pytestmark = pytest.mark.crash


@pytest.mark.parametrize("storm", STORMS, ids=str)
def test_kills_at_random_moments_change_nothing_in_the_outcome(
    storm: Storm, zygote: Zygote, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    draw = random.Random(storm.seed)
    expected = reference(zygote, tmp_path, "mixed", "play")
    kills, number = 0, 0
    while kills < storm.kills:
        number += 1
        trial = Trial(zygote, Order(str(tmp_path / str(number)), "drive", durability="normal"))
        trial.go(point=Point.ANSWERED, nth=2)  # launched: the first signal can be sent, long before it is waited for
        trial.answer()
        while kills + trial.kills < storm.kills:
            # Half of them hit the opening and the claim, half of them the work.
            trial.go(after_s=draw.uniform(0, 0.02) if draw.random() < 0.5 else draw.uniform(0.01, 0.2))
            if trial.status is not None and trial.status not in NEEDS_SOMEBODY:
                break
            trial.answer()
        trial.finish()
        trial.compare(expected)
        kills += trial.kills
    record_property("kills", kills)
