"""Ids: random, distinct, and never shared with a forked child."""

from __future__ import annotations

import os
from uuid import UUID

from smithers.ids import new_id


def test_ids_are_distinct_version_4_uuids() -> None:
    ids = [new_id() for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert {(UUID(id).version, str(UUID(id)) == id) for id in ids} == {(4, True)}


def test_a_forked_child_gives_other_ids_than_its_parent() -> None:
    new_id()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, new_id().encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        childs = pipe.read()
    os.waitpid(pid, 0)
    assert childs
    assert childs not in {new_id() for _ in range(300)}
