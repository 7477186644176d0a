"""Copying a workspace: everything arrives, in either direction, and the copy goes on as the original would have."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from smithers import Approval, Sequence, Task, Workflow, close_engines, create_smithers, run_workflow
from smithers.components.workflow import SmithersWorkflow
from smithers.control.caller import Caller
from smithers.control.control import Control
from smithers.errors import StorageError
from smithers.store import copying, open_store

pytestmark = pytest.mark.anyio


class Row(BaseModel):
    """One value of each kind."""

    text: str
    count: int
    share: float
    is_good: bool
    tags: list[str]


def flow() -> SmithersWorkflow:
    """A workflow with a row of every kind of column, that waits for a decision."""
    smithers, outputs = create_smithers({"row": Row, "verdict": Verdict})

    @smithers
    def found(ctx: object) -> Workflow:
        del ctx
        return Workflow("copied")[
            Sequence[
                Task("first", output=outputs.row)[
                    lambda: Row(text="ä\n'", count=2**80, share=0.1, is_good=True, tags=["x"])
                ],
                Task("second", output=outputs.row)[lambda: Row(text="", count=-1, share=1e300, is_good=False, tags=[])],
                Approval("ok", output=outputs.verdict),
                Task("last", output=outputs.row)[lambda: Row(text="end", count=0, share=0.0, is_good=True, tags=[])],
            ]
        ]

    return found


class Verdict(BaseModel):
    """A decision."""

    approved: bool


@pytest.mark.parametrize("direction", ["to-postgres", "to-sqlite", "sqlite-to-sqlite"])
async def test_a_copy_holds_the_same_and_a_waiting_run_goes_on_in_it(
    direction: str, tmp_path: Path, postgres_url: str
) -> None:
    sqlite, other = str(tmp_path / "one.db"), str(tmp_path / "other.db")
    source, target = {
        "to-postgres": (sqlite, postgres_url),
        "to-sqlite": (postgres_url, other),
        "sqlite-to-sqlite": (sqlite, other),
    }[direction]
    workflow = flow()
    for index in range(3):
        assert (await run_workflow(workflow, run_id=f"r{index}", db=source)).status == "waiting-approval"
    await close_engines()

    one, copy = open_store(source), open_store(target)
    try:
        counts = copying.copy_store(one, copy)
        assert counts["_smithers_runs"] == 3
        assert copying.compare(one, copy) == []

        await Control(copy).decide("r1", approved=True, caller=Caller("me", scopes=("*",)))
        result = await run_workflow(workflow, run_id="r1", resume=True, db=target)
        assert result.status == "finished"
        assert (await run_workflow(workflow, run_id="r9", db=target)).status == "waiting-approval"
        assert any("_smithers_events" in line for line in copying.compare(one, copy))
    finally:
        await close_engines()
        one.close()
        copy.close()


async def test_a_database_that_holds_something_is_not_copied_into(tmp_path: Path) -> None:
    source, target = str(tmp_path / "one.db"), str(tmp_path / "other.db")
    for db in (source, target):
        await run_workflow(flow(), run_id="r", db=db)
    await close_engines()
    one, other = open_store(source), open_store(target)
    try:
        with pytest.raises(StorageError, match="not empty"):
            copying.copy_store(one, other)
        assert copying.compare(one, other) != []
    finally:
        one.close()
        other.close()
