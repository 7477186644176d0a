"""Runs whose owner is gone are found however many others are being driven."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from smithers.store import open_store
from smithers.store.interface import NewRun
from smithers.store.sql import control, reads
from smithers.store.sql.store import SqlStore

BOTH_DATABASES = True
NOW = 1_000_000


@pytest.fixture
def store(db: str) -> Iterator[SqlStore]:
    found = open_store(db, durability="normal")
    yield found
    found.close()


def test_the_ones_left_behind_are_found_among_the_living_oldest_first(store: SqlStore) -> None:
    run = NewRun("", "w", None, None, "{}", "{}", "living", NOW)

    def fill(c: reads.Session) -> None:
        for index in range(30):
            control.launch(c, run._replace(run_id=f"new{index}", now_ms=NOW + index))
        control.launch(c, run._replace(run_id="dead", owner="dead", now_ms=NOW - 1))
        control.launch(c, run._replace(run_id="silent", owner="silent", now_ms=NOW - 50))
        control.launch(c, run._replace(run_id="released", owner=None, now_ms=NOW - 2))
        control.launch(c, run._replace(run_id="shown", owner="mirror:elsewhere", now_ms=NOW - 100))
        control.launch(c, run._replace(run_id="parked", owner=None, status="waiting-event", now_ms=NOW - 100))

    store.write(fill)

    assert sorted(store.read(reads.owners)) == ["dead", "living", "mirror:elsewhere", "silent"]
    found = store.read(lambda c: reads.left_behind(c, ["dead"], NOW - 10, 5))
    assert [row.run_id for row in found] == ["silent", "released", "dead"]
    assert [row.run_id for row in store.read(lambda c: reads.left_behind(c, [], NOW - 10, 1))] == ["silent"]
