"""The crash tests make as many kills as they claim: each case holds itself to its own number, this to the sum."""

from __future__ import annotations

from tests.acceptance.crash.faults import Point
from tests.acceptance.crash.plan import DOUBLE_SWEEPS, LEAST, STORMS, SWEEPS


def test_at_least_500_kills_are_made() -> None:
    planned = [case.kills for case in (*SWEEPS, *DOUBLE_SWEEPS)] + [storm.kills for storm in STORMS]
    assert sum(planned) >= LEAST
    assert len({str(case) for case in SWEEPS}) == len(SWEEPS)


def test_every_write_is_hit_at_every_point() -> None:
    for workflow in ("mixed", "doomed"):
        for point in Point:
            sweeps = [s for s in SWEEPS if (s.workflow, s.point) == (workflow, point)]
            assert sorted(s.part for s in sweeps) == list(range(1, sweeps[0].parts + 1))
